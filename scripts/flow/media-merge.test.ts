// The second preset: three odd clips become one video through seven stages of a real fleet, and every clip lies in the stored
// file where the stored segments.json says.
import { execFile } from "node:child_process";
import { readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterEach, beforeEach, expect, test } from "vitest";
import { type Fleet, isOver, openFleet, stageOf } from "./fleet.ts";

const run = promisify(execFile);
let fleet: Fleet;
beforeEach(async () => {
  fleet = await openFleet();
  await fleet.startControlPlane();
  await fleet.startAgent("alpha");
});
afterEach(() => fleet.stop());

/** One colour a clip, which tells where it lies in the result. */
const makeClip = async (file: string, colour: string, size: string, rate: string, sound: boolean) => {
  const path = join(fleet.dir, file);
  const silence = sound ? ["-f", "lavfi", "-i", "sine=d=1"] : [];
  const source = ["-f", "lavfi", "-i", `color=${colour}:s=${size}:r=${rate}:d=1`, ...silence];
  await run("ffmpeg", ["-v", "error", "-y", ...source, "-c:v", "libx264", "-pix_fmt", "yuv420p", path]);
  return readFile(path);
};

test("[S163] clips become one video through upload, analysis, preparation, merging, compression, storage_upload and cleanup", {
  timeout: 240_000,
}, async () => {
  const media = [
    { name: "Füchse & 'co'.mp4", bytes: await makeClip("a.mp4", "red", "640x360", "30", true) },
    { name: "standing.mkv", bytes: await makeClip("b.mkv", "lime", "180x320", "25", false) },
    { name: "film.mp4", bytes: await makeClip("c.mp4", "blue", "320x240", "24000/1001", true) },
  ];
  const order = ["film.mp4", "Füchse & 'co'.mp4", "standing.mkv"];
  const id = await fleet.submit({ pipeline: "media-merge", request: { media: order, height: 180, width: 320 } }, media);
  const job = await fleet.until(id, "the end", isOver, 200_000);
  expect(job.failure).toBeNull();
  expect(job.stages.map((stage) => [stage.name, stage.state])).toEqual(
    ["upload", "analysis", "preparation", "merging", "compression", "storage_upload", "cleanup"].map((name) => [
      name,
      "succeeded",
    ]),
  );

  const stored = (await fleet.artifacts(id)).filter((artifact) => artifact.stage === "storage_upload");
  for (const artifact of stored) await writeFile(join(fleet.dir, artifact.name), await fleet.download(artifact));
  const { stdout: verified } = await run("sha256sum", ["-c", "checksums.sha256"], { cwd: fleet.dir });
  expect(verified).toBe("video.mp4: OK\nsegments.json: OK\nmanifest.json: OK\n");
  const { segments } = JSON.parse(await readFile(join(fleet.dir, "segments.json"), "utf8")) as {
    readonly segments: readonly { readonly name: string; readonly start_frame: number; readonly end_frame: number }[];
  };
  expect(segments.map((segment) => segment.name)).toEqual(order);
  const raw = ["-vf", "scale=1:1:flags=area", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"];
  const { stdout: pixels } = await run("ffmpeg", ["-v", "error", "-i", join(fleet.dir, "video.mp4"), ...raw], {
    encoding: "buffer",
  });
  const shown = Array.from({ length: pixels.length / 3 }, (_, i) => {
    const rgb = [...pixels.subarray(3 * i, 3 * i + 3)];
    return rgb.indexOf(Math.max(...rgb));
  });
  const [blue, red, lime] = [2, 0, 1];
  expect(shown).toEqual(
    segments.flatMap((segment, i) =>
      new Array(segment.end_frame - segment.start_frame).fill([blue, red, lime][i] as number),
    ),
  );
  expect(segments.at(-1)?.end_frame).toBe(90);

  // Three prepared clips and the merged file are gone from the host; the package is still there.
  const { result } = stageOf(job, "cleanup");
  expect(result).toMatchObject({ files_freed: 4, files_left: 0 });
  const cache = join(fleet.agentDir("alpha"), "cache");
  const cached = new Set(await readdir(cache, { recursive: true }).then((names) => names.map((name) => name.slice(3))));
  const freed = (await fleet.artifacts(id)).filter((artifact) => artifact.name.endsWith(".mov"));
  expect(freed.length).toBe(4);
  expect(freed.reduce((sum, artifact) => sum + artifact.size_bytes, 0)).toBe(result?.bytes_freed);
  expect(freed.filter((artifact) => cached.has(artifact.sha256))).toEqual([]);
  expect(stored.filter((artifact) => cached.has(artifact.sha256)).length).toBe(4);
  expect(await fleet.broken()).toEqual([]);
});
