// The main job on real processes: a text becomes a narrated video, also when the agent or the control plane is killed in the
// middle of the render. It ends once, is charged once, and the file plays.
import { execFile } from "node:child_process";
import { readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type AttemptJson, type Fleet, isOver, type JobJson, openFleet, processesOf, stageOf } from "./fleet.ts";

type Probed = {
  readonly format: { readonly duration: string };
  readonly streams: readonly { readonly codec_type: string }[];
};

const run = promisify(execFile);
let fleet: Fleet;
beforeEach(async () => {
  fleet = await openFleet();
  await fleet.startControlPlane();
  await fleet.startAgent("alpha");
});
afterEach(() => fleet.stop());

const script = `A fox learned to read. It was slow at first: one word a day, and two on Sundays. "Why?" asked the owl. Because it's 100% worth it.`;
const request = { title: "The fox's book: 100 % true", script, keywords: ["forest"] };

/** The finished file, checked by an ffprobe that knows nothing of the pipeline. */
const probe = async (job: JobJson) => {
  const items = await fleet.artifacts(job.id);
  const video = items.find((item) => item.stage === "upload_preparation" && item.name === "video.mp4");
  if (!video) throw new Error("the package has no video.mp4");
  const bytes = await fleet.download(video);
  const file = join(fleet.dir, "video.mp4");
  await writeFile(file, bytes);
  const { stdout } = await run("ffprobe", ["-v", "error", "-of", "json", "-show_format", "-show_streams", file]);
  await run("ffmpeg", ["-v", "error", "-xerror", "-i", file, "-f", "null", "-"]);
  return { names: items.map((item) => `${item.stage}/${item.name}`), probed: JSON.parse(stdout) as Probed };
};
const rendering = (job: JobJson) => {
  const stage = stageOf(job, "video_rendering");
  return stage.state === "running" && stage.progress > 0.15;
};
const settledOnce = async (id: string) => {
  expect(await fleet.broken()).toEqual([]);
  expect(await fleet.sql(`select count(*)::int as n from events where job_id = $1 and is_terminal`, [id])).toEqual([
    { n: 1 },
  ]);
  const charged = await fleet.sql<{ stage: string; n: number }>(
    `select s.name as stage, count(*)::int as n from ledger l join attempts a on a.id = l.attempt_id join stages s on s.id = a.stage_id
     where l.job_id = $1 and l.kind = 'charge' and l.service = 'cpu_compute' group by 1`,
    [id],
  );
  expect(charged.length).toBe(6);
  for (const row of charged) expect(row.n, row.stage).toBe(1);
};

describe("a text becomes a narrated video", () => {
  test("through all six stages, as a package that an independent probe accepts", { timeout: 240_000 }, async () => {
    const id = await fleet.submit({ request });
    const job = await fleet.until(id, "the end", isOver, 200_000);
    expect(job.failure).toBeNull();
    expect(job.state).toBe("completed");
    expect(job.stages.map((s) => [s.name, s.state])).toEqual(
      [
        "script_generation",
        "audio_synthesis",
        "media_collection",
        "video_rendering",
        "quality_validation",
        "upload_preparation",
      ].map((name) => [name, "succeeded"]),
    );
    const { names, probed } = await probe(job);
    expect(names).toEqual(
      expect.arrayContaining(
        ["video.mp4", "thumbnail.jpg", "metadata.json", "captions.srt", "checksums.sha256"].map(
          (n) => `upload_preparation/${n}`,
        ),
      ),
    );
    const video = probed.streams.find((s) => s.codec_type === "video");
    const audio = probed.streams.find((s) => s.codec_type === "audio");
    expect(video).toMatchObject({
      codec_name: "h264",
      profile: "High",
      width: 1920,
      height: 1080,
      pix_fmt: "yuv420p",
      r_frame_rate: "30/1",
    });
    expect(audio).toMatchObject({ codec_name: "aac", sample_rate: "48000" });
    const speech = Number(stageOf(job, "audio_synthesis").result?.duration);
    expect(Math.abs(Number(probed.format.duration) - speech)).toBeLessThan(3);
    await settledOnce(id);
  });

  test("once, when the agent is killed with -9 in the middle of the render", { timeout: 300_000 }, async () => {
    const id = await fleet.submit({ request });
    const before = await fleet.until(id, "the render", rendering);
    const attempt = stageOf(before, "video_rendering").attempts.at(-1) as AttemptJson;
    const running = await processesOf(attempt.id);
    expect(running.length).toBeGreaterThan(0);
    await fleet.kill9("alpha");
    // What it ran goes on without it.
    expect((await processesOf(attempt.id)).length).toBeGreaterThan(0);
    await fleet.startAgent("alpha");
    const job = await fleet.until(id, "the end", isOver, 200_000);
    expect(job.state, JSON.stringify(job.failure)).toBe("completed");
    // Adopted, not begun again: the same attempt, on the same fence.
    expect(stageOf(job, "video_rendering").attempts.map((a) => [a.id, a.outcome])).toEqual([[attempt.id, "succeeded"]]);
    await probe(job);
    await settledOnce(id);
    expect(await readdir(join(fleet.agentDir("alpha"), "attempts"))).toEqual([]);
  });

  test("once, when the control plane is killed with -9 in the middle of the render", { timeout: 300_000 }, async () => {
    const id = await fleet.submit({ request });
    const before = await fleet.until(id, "the render", rendering);
    const attempt = stageOf(before, "video_rendering").attempts.at(-1) as AttemptJson;
    await fleet.kill9("control-plane");
    expect((await processesOf(attempt.id)).length).toBeGreaterThan(0);
    await fleet.startControlPlane();
    const job = await fleet.until(id, "the end", isOver, 200_000);
    expect(job.state, JSON.stringify(job.failure)).toBe("completed");
    expect(stageOf(job, "video_rendering").attempts.map((a) => [a.id, a.outcome])).toEqual([[attempt.id, "succeeded"]]);
    await probe(job);
    await settledOnce(id);
  });

  test("a cancel in the middle of the render ends every process of it, and costs what was used", {
    timeout: 120_000,
  }, async () => {
    const id = await fleet.submit({ request });
    const before = await fleet.until(id, "the render", rendering);
    const attempt = stageOf(before, "video_rendering").attempts.at(-1) as AttemptJson;
    const answer = await fleet.api("POST", `/api/v1/jobs/${id}/cancel`, { reason: "wrong title" });
    expect(answer.status).toBeLessThan(300);
    const job = await fleet.until(id, "the end", isOver, 60_000);
    expect(job.state).toBe("cancelled");
    expect(await processesOf(attempt.id)).toEqual([]);
    expect(job.held_cost).toBe(0);
    expect(job.actual_cost).toBeGreaterThan(0);
    expect(await fleet.broken()).toEqual([]);
  });
});
