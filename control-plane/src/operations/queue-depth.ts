// How many jobs wait, for the limit of the queue. Exact where that is cheap; with a large limit a count a second, plus what this
// replica has let in since: a queue of a million may then be passed by what the other replicas take in within that second, and
// a submission costs the same however long the queue is.
import type { Tx } from "../store/database.ts";
import { countQueuedJobs } from "../store/jobs.ts";

/** Answers at most `limit`: whether it is reached is all that is asked. */
export type QueueDepth = (tx: Tx, limit: number) => Promise<number>;

export const exactDepth: QueueDepth = countQueuedJobs;

/** Up to here every submission counts (1 to 2 ms at most); above it the count is kept for a second. */
const exactUpTo = 10_000;
const keepMs = 1_000;

/** One for each replica. `now`: a clock in ms that never goes back. */
export const createQueueDepth = (now: () => number = () => performance.now()): QueueDepth => {
  let counted: { readonly at: number; depth: number } | undefined;
  return async (tx, limit) => {
    if (limit <= exactUpTo) return countQueuedJobs(tx, limit);
    if (counted === undefined || now() - counted.at > keepMs)
      counted = { at: now(), depth: await countQueuedJobs(tx, limit) };
    // Counted before it is known whether the submission succeeds: erring this way lasts a second and lets nobody past the limit.
    return counted.depth++;
  };
};
