// A pipeline is data: one file becomes a ladder, its renditions made side by side on two hosts that share the job's files.
import { execFile } from "node:child_process";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterEach, beforeEach, expect, test } from "vitest";
import { type Fleet, isOver, openFleet } from "./fleet.ts";

const run = promisify(execFile);
let fleet: Fleet;
beforeEach(async () => {
  fleet = await openFleet();
  await fleet.startControlPlane();
});
afterEach(() => fleet.stop());

const makeClip = async (args: readonly string[]) => {
  const path = join(fleet.dir, "clip.mp4");
  await run("ffmpeg", ["-v", "error", "-y", ...args, path]);
  return readFile(path);
};

test("one file becomes a checked ladder on two hosts", { timeout: 240_000 }, async () => {
  await fleet.startAgent("alpha");
  await fleet.startAgent("beta");
  const clip = await makeClip([
    "-f",
    "lavfi",
    "-i",
    "testsrc2=s=1920x1080:r=30:d=3",
    "-f",
    "lavfi",
    "-i",
    "sine=d=3",
    "-c:v",
    "libx264",
    "-preset",
    "ultrafast",
    "-c:a",
    "aac",
    "-shortest",
  ]);
  const id = await fleet.submit({ pipeline: "transcode", request: {} }, [
    { name: "Füchse & 'co' 100%.mp4", bytes: clip },
  ]);
  const job = await fleet.until(id, "the end", isOver, 180_000);
  expect(job.state, JSON.stringify(job.failure)).toBe("completed");
  // Each host is too small for two renditions at once, so both worked, and the check read what the other one made.
  expect(new Set(job.stages.flatMap((s) => s.attempts.map((a) => a.host))).size).toBe(2);
  const renditions = (await fleet.artifacts(id)).filter((a) => a.name.startsWith("rendition-"));
  const heights = await Promise.all(
    renditions.map(async (artifact) => {
      const path = join(fleet.dir, artifact.name);
      await writeFile(path, await fleet.download(artifact));
      const { stdout } = await run("ffprobe", [
        "-v",
        "error",
        "-select_streams",
        "v:0",
        "-show_entries",
        "stream=codec_name,width,height",
        "-of",
        "csv=p=0",
        path,
      ]);
      return stdout.trim();
    }),
  );
  expect(heights.sort()).toEqual(["h264,1280,720", "h264,1920,1080", "h264,854,480"]);
  expect(await fleet.broken()).toEqual([]);
});

test("a broken file fails with its name and what to do, costs no second try, and the job ends", {
  timeout: 120_000,
}, async () => {
  await fleet.startAgent("alpha");
  const clip = await makeClip(["-f", "lavfi", "-i", "testsrc2=s=320x180:r=30:d=1", "-c:v", "libx264"]);
  // The index at the end is cut off: it looks like a video and cannot be read.
  const id = await fleet.submit({ pipeline: "transcode", request: {} }, [
    { name: "holiday.mp4", bytes: clip.subarray(0, clip.length / 2) },
  ]);
  const job = await fleet.until(id, "the end", isOver, 60_000);
  expect(job.state).toBe("failed");
  expect(job.failure?.class).toBe("input_corrupt");
  expect(job.failure?.message).toContain("holiday.mp4");
  for (const stage of job.stages) expect(stage.attempts.length, stage.name).toBeLessThanOrEqual(1);
  expect(await fleet.broken()).toEqual([]);
});

test.each([
  ["clip.mp4", "#EXTM3U\n#EXT-X-VERSION:3\nfile:///etc/passwd\n", "media_refused"],
  ["clip.mp4", "ffconcat version 1.0\nfile '/etc/passwd'\n", "media_refused"],
  ["clip.mp4", "just some words", "media_refused"],
  ["clip.mp4", "", "media_refused"],
])("%s with %j is refused when it is submitted, and nothing is queued", async (name, text, code) => {
  const answer = await fleet.post({ pipeline: "transcode", request: {} }, [
    { name, bytes: new TextEncoder().encode(text) },
  ]);
  expect([answer.status, answer.body.code]).toEqual([422, code]);
  expect(String(answer.body.detail)).toContain(name);
  expect(await fleet.sql("select count(*)::int as n from jobs")).toEqual([{ n: 0 }]);
});
