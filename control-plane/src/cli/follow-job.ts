// Follows one job to its end. The truth is always the job as the server tells it; events only say when to ask again, and live
// progress frames move the bars in between. Without a stream it asks every second. A server that is away for a while
// (a restart) is waited for.
import { setTimeout as pause } from "node:timers/promises";
import type { Client } from "./client.ts";
import { listen, type StreamEvent } from "./events.ts";
import { CliFailure, exitCodes } from "./failure.ts";
import type { JobJson, StageJson } from "./shapes.ts";

/** Events of one transaction arrive together: they are answered with one question. */
const gatherMs = 150;
/** With an open stream nothing should be missed; this is for the case that something was. */
const backstopMs = 5_000;
const pollMs = 1_000;
/** How long a server that does not answer is waited for. */
const defaultPatienceMs = 60_000;

export const isOver = (job: { readonly state: string }): boolean =>
  job.state !== "queued" && job.state !== "processing";

export const followJob = async (
  client: Client,
  id: string,
  options: {
    readonly signal: AbortSignal;
    readonly onJob: (job: JobJson) => void;
    readonly onTrouble?: (message: string) => void;
    readonly patienceMs?: number;
  },
): Promise<JobJson> => {
  const path = `/api/v1/jobs/${encodeURIComponent(id)}`;
  let job = await client.get<JobJson>(path, options.signal);
  options.onJob(job);
  const closing = new AbortController();
  const signal = AbortSignal.any([options.signal, closing.signal]);
  let bell = new AbortController();
  const stream = listen(client, `job:${job.id}`, signal, (event) => {
    const moved = withProgress(job, event);
    if (moved === undefined) return bell.abort();
    job = moved;
    options.onJob(job);
  });
  try {
    while (!isOver(job)) {
      const rung = AbortSignal.any([signal, bell.signal]);
      await pause(stream.isOpen() ? backstopMs : pollMs, undefined, { signal: rung }).catch(() => {});
      options.signal.throwIfAborted();
      await pause(gatherMs, undefined, { signal: options.signal });
      bell = new AbortController();
      job = merged(job, await askPatiently(client, path, options));
      options.onJob(job);
    }
    return job;
  } finally {
    closing.abort();
    await stream.done;
  }
};

const askPatiently = async (
  client: Client,
  path: string,
  options: { signal: AbortSignal; onTrouble?: (message: string) => void; patienceMs?: number },
): Promise<JobJson> => {
  const end = performance.now() + (options.patienceMs ?? defaultPatienceMs);
  for (let tries = 0; ; tries++) {
    try {
      return await client.get<JobJson>(path, options.signal);
    } catch (error) {
      options.signal.throwIfAborted();
      const isAway = error instanceof CliFailure && error.exitCode === exitCodes.unreachable;
      if (!isAway || performance.now() > end) throw error;
      if (tries === 0) options.onTrouble?.(`${error.message}; trying again`);
      await pause(pollMs, undefined, { signal: options.signal });
    }
  }
};

/** Body of a live frame; durable progress events have no stage_progress. */
type Frame = {
  readonly stage?: string;
  readonly stage_progress?: unknown;
  /** Of the job, in percent. */
  readonly progress?: number;
  readonly step?: string;
  readonly eta_seconds?: number | null;
};

/** The job with a live progress frame applied; undefined when the event is none. */
const withProgress = (job: JobJson, event: StreamEvent): JobJson | undefined => {
  const frame = (event.data as { readonly body?: Frame } | null)?.body ?? {};
  const share = frame.stage_progress;
  if (typeof share !== "number") return undefined;
  const stages = job.stages.map((stage) =>
    stage.name === frame.stage && stage.state === "running"
      ? {
          ...stage,
          progress: Math.max(stage.progress, share),
          step: frame.step ?? stage.step,
          eta_seconds: frame.eta_seconds ?? null,
        }
      : stage,
  );
  return { ...job, stages, progress: Math.max(job.progress, (frame.progress ?? 0) / 100) };
};

/** Stored progress is a few seconds behind the live frames: within one attempt a bar never moves back. */
const merged = (before: JobJson, now: JobJson): JobJson => ({
  ...now,
  stages: now.stages.map((stage) => {
    const old = before.stages.find((s) => s.name === stage.name);
    return old && isSameTry(old, stage) ? { ...stage, progress: Math.max(old.progress, stage.progress) } : stage;
  }),
});

const isSameTry = (a: StageJson, b: StageJson): boolean =>
  a.state === "running" && b.state === "running" && a.attempts.length === b.attempts.length;
