// Copies the queue to Redis for tools that look there, as requirements 002 name its keys. Best effort and one way: losing all of it
// changes nothing here. Counters are counted from the event log, each event once, and survive restarts of either side.
import type { CountedEvents, QueueMirror } from "../bus/queue-mirror.ts";
import type { EventRow } from "../domain/records.ts";
import { eventsAfter } from "../store/events.ts";
import { processingJobs, queuedJobs } from "../store/queue-mirror.ts";
import type { Context } from "./context.ts";

/** The head of the queue; what stands behind it is not mirrored, and queue_depth says no more than this. */
const maxMirrored = 10_000;
/** Events of one turn; a Redis that lost its counters is brought up in several. */
const maxCounted = 5_000;

/** True: more events wait to be counted. */
export const mirrorQueue = async (ctx: Context, mirror: QueueMirror): Promise<boolean> => {
  if (!mirror.isReachable()) return false;
  await mirror.write({
    queued: await queuedJobs(ctx.db.direct, maxMirrored),
    processing: await processingJobs(ctx.db.direct, maxMirrored),
  });
  const after = await mirror.countedUpTo();
  const events = await eventsAfter(ctx.db.direct, { seq: after, limit: maxCounted });
  const counted = tally(after, events);
  if (counted !== undefined) await mirror.count(counted);
  return events.length === maxCounted;
};

const tally = (after: bigint, events: readonly EventRow[]): CountedEvents | undefined => {
  const last = events.at(-1);
  if (last === undefined) return undefined;
  const count = (type: string) => events.filter((event) => event.type === type).length;
  return {
    after,
    upTo: last.seq,
    enqueued: count("job.queued"),
    processed: count("job.completed"),
    failed: count("job.failed"),
  };
};
