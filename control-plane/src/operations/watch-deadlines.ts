// Deadlines that have passed: each is reported once, and ends its job when the sender asked for that. The mark and the event are
// one transaction; the cancel is the usual one and follows. A crash in between is found again by the mark without a cancel.
import { isCode } from "@renderplane/proto/kernel/errors.ts";
import { isRowHeld } from "../store/database.ts";
import { appendEvents } from "../store/events.ts";
import { jobsToCancelByDeadline, markMissedDeadlines, nextDeadlineMs } from "../store/jobs.ts";
import { cancelJob } from "./cancel-job.ts";
import type { Context } from "./context.ts";

/** A turn takes at most this many; the next turn follows at once while there are more. */
const batchSize = 200;

/** Answers when the next deadline is due (ms), or undefined when no open job has one. */
export const watchDeadlines = async (
  ctx: Context,
): Promise<{ readonly missed: number; readonly cancelled: number; readonly nextMs: number | undefined }> => {
  const missed = await ctx.db.transaction(async (tx) => {
    const jobs = await markMissedDeadlines(tx, batchSize);
    await appendEvents(
      tx,
      jobs.map((job) => ({
        type: "job.deadline_missed",
        jobId: job.id,
        body: { deadline: job.deadlineAt.toISOString(), on_deadline: job.onDeadline },
      })),
    );
    return jobs.length;
  });
  if (missed > 0) ctx.bus.ring("events");
  const due = await jobsToCancelByDeadline(ctx.db.direct, batchSize);
  let held: unknown;
  for (const jobId of due)
    try {
      await cancelUnlessEnded(ctx, jobId);
    } catch (error) {
      // It is the first again at the next look; those behind it do not wait for it.
      if (isCode(error, "unavailable") && !isRowHeld(error)) throw error;
      held ??= error;
    }
  if (held !== undefined) throw held;
  const isFull = missed === batchSize || due.length === batchSize;
  return { missed, cancelled: due.length, nextMs: isFull ? 0 : await nextDeadlineMs(ctx.db.direct) };
};

const cancelUnlessEnded = async (ctx: Context, jobId: string): Promise<void> => {
  try {
    await cancelJob(ctx, jobId, "its deadline has passed");
  } catch (error) {
    // It ended a moment before: nothing is left to cancel.
    if (!isCode(error, "job_is_final") && !isCode(error, "job_not_found")) throw error;
  }
};
