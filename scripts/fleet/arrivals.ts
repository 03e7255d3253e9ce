// Submits jobs as customers would: at random moments with a mean rate (a Poisson process), by several users and channels, with mixed
// priorities, over HTTP, each under an Idempotency-Key of its own. A refusal with Retry-After is kept to and counted.
import { setTimeout as pause } from "node:timers/promises";
import { createHistogram, type Histogram } from "./histogram.ts";
import { createRandom, type Random } from "./random.ts";

/** Submissions under way at once; a server that answers slower than this is the limit, and the report shows it. */
const maxOpen = 64;
/** Refused and sent again this often, then given up. */
const maxTries = 20;
const longestPauseMs = 5_000;

export type Arrivals = {
  readonly seed: number;
  readonly pipeline: string;
  /** At most. */
  readonly jobs: number;
  /** Jobs a second; 0: as fast as they are taken. */
  readonly rate: number;
  readonly durationMs: number;
};

export type Submissions = {
  readonly accepted: () => number;
  readonly refused: () => number;
  readonly failed: () => number;
  /** From the request to its answer. */
  readonly latency: Histogram;
  /** When the request of a job left, by its id (Unix milliseconds). Kept only when asked for. */
  readonly sentAt: ReadonlyMap<string, number>;
  /** The first error that was not a refusal. */
  readonly firstError: () => string | undefined;
  /** Resolves when the last one was answered. */
  readonly done: Promise<void>;
};

export const submitJobs = (
  arrivals: Arrivals,
  to: { readonly urls: readonly string[]; readonly signal: AbortSignal; readonly keepsTimes?: boolean },
): Submissions => {
  const random = createRandom(arrivals.seed, "arrivals");
  const latency = createHistogram();
  const sentAt = new Map<string, number>();
  const counts = { accepted: 0, refused: 0, failed: 0 };
  let firstError: string | undefined;

  const one = async (index: number, body: unknown): Promise<void> => {
    for (let tries = 1; tries <= maxTries && !to.signal.aborted; tries++) {
      const began = performance.now();
      const response = await fetch(`${to.urls[index % to.urls.length]}/api/v1/jobs`, {
        method: "POST",
        headers: {
          "content-type": "application/json",
          "idempotency-key": `sim-${arrivals.seed}-${process.pid}-${index}`,
        },
        body: JSON.stringify(body),
        signal: AbortSignal.any([to.signal, AbortSignal.timeout(30_000)]),
      });
      const answer = (await response.json()) as { id?: string; detail?: string };
      if (response.ok && answer.id !== undefined) {
        latency.record(performance.now() - began);
        counts.accepted++;
        if (to.keepsTimes) sentAt.set(answer.id, performance.timeOrigin + began);
        return;
      }
      if (response.status !== 429 && response.status !== 503)
        throw new Error(`a submission was answered with ${response.status}: ${answer.detail ?? ""}`);
      counts.refused++;
      const seconds = Number(response.headers.get("retry-after")) || 1;
      await pause(Math.min(longestPauseMs, seconds * 1000), undefined, { signal: to.signal });
    }
  };

  const all = async (): Promise<void> => {
    const open = new Set<Promise<void>>();
    const began = performance.now();
    let due = began;
    for (let index = 0; index < arrivals.jobs && !to.signal.aborted; index++) {
      if (arrivals.rate > 0) due += random.exponential(1000 / arrivals.rate);
      if (due - began > arrivals.durationMs || performance.now() - began > arrivals.durationMs) break;
      // One that is late goes at once: the mean rate is kept as long as the server keeps up.
      const waitMs = due - performance.now();
      if (waitMs > 1) await pause(waitMs, undefined, { signal: to.signal });
      if (open.size >= maxOpen) await Promise.race(open);
      const submission = one(index, bodyOf(arrivals.pipeline, random, index))
        .catch((error: unknown) => {
          if (to.signal.aborted) return;
          counts.failed++;
          firstError ??= String(error);
        })
        .finally(() => open.delete(submission));
      open.add(submission);
    }
    await Promise.all(open);
  };

  return {
    accepted: () => counts.accepted,
    refused: () => counts.refused,
    failed: () => counts.failed,
    latency,
    sentAt,
    firstError: () => firstError,
    done: all().catch((error: unknown) => {
      if (!to.signal.aborted) throw error;
    }),
  };
};

const users = 8;
const channelsPerUser = 3;

/** The same mix that the model draws: mostly ordinary, some urgent, few premium. */
export const drawJob = (random: Random) => ({
  user: random.below(users),
  channel: random.below(channelsPerUser),
  priority: random.next() < 0.8 ? 5 : 1 + random.below(9),
  complexity:
    random.next() < 0.7 ? ("simple" as const) : random.next() < 0.7 ? ("complex" as const) : ("premium" as const),
});

const bodyOf = (pipeline: string, random: Random, index: number) => {
  const { user, channel, priority, complexity } = drawJob(random);
  return {
    pipeline,
    user_id: `user-${user}`,
    channel_id: `channel-${user}-${channel}`,
    priority,
    complexity,
    request: pipeline === "narrated-video" ? { title: `Simulated ${index}`, script: `This is video ${index}.` } : {},
  };
};
