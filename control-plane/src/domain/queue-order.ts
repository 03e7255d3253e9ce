// The place of a job in the queue as one number, smallest first, so that one index holds the whole order and its head is read,
// never sorted. Decides the number and takes it apart again for people; the clocks of the shares are rows (store/shares.ts).
// Requirements 002: older first, a step of priority is worth 100,000 seconds of age, premium 50,000 seconds.
//
// Why a number of time and not a scheduler over all queues: a job's place is fixed by one upsert when it is submitted, costs the
// same at ten jobs and at a million, never has to be moved, and everybody's turn comes, because time passes every place. Fair
// sharing is start-time fair queuing with a fixed price a job: each owner has a clock that a job pushes on by a gap, never behind
// now, so an idle owner starts level with everybody and a burst spreads itself out behind those of others.
import type { Complexity } from "./records.ts";

const priorityMs = 100_000_000n;
const premiumMs = 50_000_000n;

/** A user's next job stands this much behind the one before: about what a stage takes, so two users alternate. */
export const userGapMs = 15_000;
/** A channel's own jobs stand further apart, so that one channel of a user leaves room for the user's others. */
export const channelGapMs = 60_000;
/** A share pushes nobody back further than a day: less than one step of priority, so it never turns priorities around. */
export const maxShareMs = 86_400_000;

/** The clocks that a job's owners have in `shares`. The separator cannot stand in a user's key by accident: the kind leads. */
export const shareKeysOf = (o: {
  readonly userId: string;
  readonly channelId: string;
}): readonly { readonly key: string; readonly gapMs: number }[] => [
  { key: `channel:${JSON.stringify([o.userId, o.channelId])}`, gapMs: channelGapMs },
  { key: `user:${o.userId}`, gapMs: userGapMs },
];

/**
 * Where a job stands in time (Unix ms), before its priority: max(from, min(fair place, latest start)). A deadline gives back
 * what the share took, and no more: nobody overtakes older jobs by writing a nearer deadline.
 */
export const baseOf = (job: {
  readonly nowMs: number;
  /** A job that may not begin yet stands in line from then on, or tomorrow's jobs would hold today's head. */
  readonly notBeforeMs: number | null;
  readonly fairMs: number;
  readonly deadlineMs: number | null;
  /** How long it is expected to take. */
  readonly expectedMs: number;
}): number => {
  const from = Math.max(job.nowMs, job.notBeforeMs ?? 0);
  const latestStart = job.deadlineMs === null ? Number.POSITIVE_INFINITY : job.deadlineMs - job.expectedMs;
  return Math.max(from, Math.min(job.fairMs, from + maxShareMs, latestStart));
};

/** `baseMs`: where the job stands in time (Unix milliseconds), before its priority. */
export const rankOf = (job: {
  readonly baseMs: number;
  readonly priority: number;
  readonly complexity: Complexity;
}): bigint =>
  BigInt(Math.round(job.baseMs)) - BigInt(job.priority) * priorityMs - (job.complexity === "premium" ? premiumMs : 0n);

export type RankParts = {
  readonly rank: bigint;
  /** Where it stands before priority and premium. */
  readonly base: Date;
  readonly priorityMs: number;
  readonly premiumMs: number;
  /** How far its base lies behind the time from which it could stand there: the share of its owners. */
  readonly shareMs: number;
};
/** The rank and what it is made of: base - priority - premium. */
export const rankParts = (job: {
  readonly rank: bigint;
  readonly priority: number;
  readonly complexity: Complexity;
  readonly createdAt: Date;
  readonly notBefore: Date | null;
}): RankParts => {
  const forward = {
    priorityMs: Number(BigInt(job.priority) * priorityMs),
    premiumMs: job.complexity === "premium" ? Number(premiumMs) : 0,
  };
  const baseMs = Number(job.rank) + forward.priorityMs + forward.premiumMs;
  const from = Math.max(job.createdAt.getTime(), job.notBefore?.getTime() ?? 0);
  return { rank: job.rank, base: new Date(baseMs), ...forward, shareMs: Math.max(0, baseMs - from) };
};

/** Places are counted up to here; further back the answer is "at least", because counting all would cost each submission more. */
export const exactPlaces = 10_000;
