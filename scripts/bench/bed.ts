// What a benchmark runs on: a fresh system in a folder of its own, with attempts kept for reading, gone afterwards. Waiting and
// figures that several benchmarks need. Figures come from one machine and say so; nothing is tuned here.
import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { availableParallelism, cpus, tmpdir, totalmem } from "node:os";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { promisify } from "node:util";
import type { Client } from "../../control-plane/src/cli/client.ts";
import { isOver } from "../../control-plane/src/cli/follow-job.ts";
import type { AcceptedJson, JobJson } from "../../control-plane/src/cli/shapes.ts";
import { freePort } from "../backends/server-process.ts";
import { type RunningSystem, startSystem } from "../system/system.ts";

const run = promisify(execFile);

export type BenchOptions = {
  /** Sizes that show that it works, not what it measures; nothing is written to docs/. */
  readonly isSmall: boolean;
  /** Where profiles of the control plane go; only benchmarks of the fleet make them. */
  readonly profileDir?: string;
};
/** Markdown: a sentence on what was done, a table of figures. `figures` is the same for programs. */
export type BenchResult = string | { readonly markdown: string; readonly figures: unknown };
export type Bench = {
  readonly name: string;
  readonly run: (say: (text: string) => void, signal: AbortSignal, options: BenchOptions) => Promise<BenchResult>;
};

export type Bed = RunningSystem & { readonly agentDir: string };

export const onBed = async <T>(
  options: { readonly say: (text: string) => void; readonly signal: AbortSignal; readonly pipelines?: string },
  act: (bed: Bed) => Promise<T>,
): Promise<T> => {
  const dataDir = await mkdtemp(join(tmpdir(), "renderplane-bench-"));
  try {
    const system = await startSystem({
      dataDir,
      port: await freePortOfThree(),
      say: options.say,
      signal: options.signal,
      env: {
        RENDERPLANE_KEEP_ATTEMPTS: "true",
        ...(options.pipelines === undefined ? {} : { RENDERPLANE_PIPELINES_DIR: options.pipelines }),
      },
    });
    try {
      return await act({ ...system, agentDir: join(dataDir, "agent") });
    } finally {
      await system.stop();
    }
  } finally {
    await rm(dataDir, { recursive: true, force: true });
  }
};

/** A port whose two neighbours are most likely free too; a clash is reported by the start, not hidden. */
const freePortOfThree = async (): Promise<number> => Math.min(await freePort(), 65_000);

export const submit = async (client: Client, body: unknown): Promise<string> =>
  (await client.post<AcceptedJson>("/api/v1/jobs", body)).id;

/** Asks often: the moment of the end is taken from the job itself, so asking costs no precision. */
export const untilOver = async (client: Client, id: string, everyMs: number, signal: AbortSignal): Promise<JobJson> => {
  for (;;) {
    const job = await client.get<JobJson>(`/api/v1/jobs/${id}`);
    if (isOver(job)) {
      if (job.state !== "completed") throw new Error(`the job ${id} is ${job.state}: ${job.failure?.message ?? ""}`);
      return job;
    }
    await pause(everyMs, undefined, { signal });
  }
};

/** Folders of the job's attempts that the agent kept, by stage. The agent puts them aside after its answer, so wait a moment. */
export const keptAttempts = async (agentDir: string, job: JobJson): Promise<Map<string, string>> => {
  const kept = new Map<string, string>();
  const end = performance.now() + 10_000;
  for (const stage of job.stages) {
    const id = stage.attempts.at(-1)?.id ?? "";
    const folder = join(agentDir, "kept", id);
    while ((await readFile(join(folder, "spec.json")).catch(() => undefined)) === undefined) {
      if (performance.now() > end) throw new Error(`the agent kept no folder of ${stage.name} at ${folder}`);
      await pause(20);
    }
    kept.set(stage.name, folder);
  }
  return kept;
};

/** The value below which `share` of the figures lie (nearest rank). */
export const percentile = (figures: readonly number[], share: number): number => {
  const sorted = [...figures].sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)] ?? Number.NaN;
};

export const describeMachine = async (): Promise<string> => {
  const { stdout } = await run(process.env.FFMPEG_PATH ?? "ffmpeg", ["-version"]);
  const ffmpeg = /version (\S+)/.exec(stdout)?.[1] ?? "unknown";
  const memory = `${(totalmem() / 1024 ** 3).toFixed(0)} GiB`;
  return `${availableParallelism()} cores of ${cpus()[0]?.model.trim() || "an unnamed CPU"}, ${memory}, FFmpeg ${ffmpeg}, Node ${process.version}`;
};
