// From a submission to the first FFmpeg process, on an idle system: fifty jobs of one trivial stage, one after another. The
// start is when the kernel had the process (the shim writes run.json right after it forked), the submission is the moment
// before the request leaves the client; both on the wall clock of this machine.
import { mkdtemp, readdir, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { type Bench, keptAttempts, onBed, percentile, submit, untilOver } from "./bed.ts";

const jobs = 50;
/** The first ones load code and fill caches; a system that idles is warm. */
const warmUps = 5;
/** Long enough that nothing of the last job is still going on. */
const idleMs = 200;

const pipeline = `name: bench-noop
version: 1
title: One trivial stage
estimate: { simple: 0.01, complex: 0.01, premium: 0.01 }
target: { seconds: 10, cost: 0.01 }
uploads: { min: 0, max: 0, media: [] }
request: { type: object, additionalProperties: false, properties: {} }
stages:
  - name: noop
    kind: noop
    timeout: 60s
    retries: 0
    estimated_cost: 0.01
    resources: { cores: 0.25, memory: 64MiB, scratch: 16MiB }
`;

export const start: Bench = {
  name: "start",
  run: async (say, signal) => {
    const folder = await mkdtemp(join(tmpdir(), "renderplane-pipelines-"));
    try {
      await writeFile(join(folder, "bench-noop.yaml"), pipeline);
      return await onBed({ say, signal, pipelines: folder }, async (bed) => {
        const figures: number[] = [];
        for (let i = 0; i < warmUps + jobs; i++) {
          await pause(idleMs, undefined, { signal });
          const submittedMs = performance.timeOrigin + performance.now();
          const id = await submit(bed.client, { pipeline: "bench-noop", request: {} });
          const job = await untilOver(bed.client, id, 50, signal);
          const kept = await keptAttempts(bed.agentDir, job);
          if (i >= warmUps) figures.push((await firstStartMs(kept.get("noop") ?? "")) - submittedMs);
        }
        const [p50, p99] = [percentile(figures, 0.5), percentile(figures, 0.99)];
        say(`p50 ${p50.toFixed(1)} ms, p99 ${p99.toFixed(1)} ms`);
        return [
          `From the request of the client to the start of the first FFmpeg process, ${jobs} jobs of one trivial stage one after another on an`,
          "idle system (embedded PostgreSQL with fsync, one agent). Goal: p50 below 30 ms.",
          "",
          "| jobs | p50 (ms) | p99 (ms) | least (ms) | most (ms) |",
          "| --- | --- | --- | --- | --- |",
          `| ${figures.length} | **${p50.toFixed(1)}** | ${p99.toFixed(1)} | ${Math.min(...figures).toFixed(1)} | ${Math.max(...figures).toFixed(1)} |`,
        ].join("\n");
      });
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  },
};

const firstStartMs = async (attempt: string): Promise<number> => {
  const [step = ""] = await readdir(join(attempt, "steps"));
  return (await stat(join(attempt, "steps", step, "run.json"))).mtimeMs;
};
