// Cancels a job. What has not begun is cancelled at once; what a host holds becomes `cancelling`, and the host is told until it
// has stopped: the job ends when nothing can cost money any more.
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { isFinalJob } from "@renderplane/proto/kernel/stage-state.ts";
import { hostsOfJob } from "../store/attempts.ts";
import { appendEvents } from "../store/events.ts";
import { lockJob, readJob, requestJobCancel } from "../store/jobs.ts";
import { moveStages } from "../store/stages.ts";
import { advanceJob } from "./advance-job.ts";
import type { Context } from "./context.ts";

/** Throws job_not_found, job_is_final. A second cancel of a job that is still stopping changes nothing. */
export const cancelJob = async (ctx: Context, jobId: string, reason: string): Promise<void> => {
  const known = await readJob(ctx.db.direct, jobId);
  if (!known) throw new RenderplaneError("job_not_found", `there is no job ${jobId}`);
  const hosts = await ctx.db.transaction(async (tx) => {
    const job = await lockJob(tx, known.id);
    if (!job) throw new RenderplaneError("job_not_found", `there is no job ${jobId}`);
    if (isFinalJob(job.state))
      throw new RenderplaneError(
        "job_is_final",
        `job ${job.id} has already ended as ${job.state}; nothing was changed`,
      );
    if (job.cancelRequestedAt === null) {
      await requestJobCancel(tx, job.id);
      await appendEvents(tx, [{ type: "job.cancel_requested", jobId: job.id, body: { reason } }]);
      await moveStages(tx, job.id, "cancel");
      await advanceJob(ctx, tx, job);
    }
    return hostsOfJob(tx, job.id);
  });
  for (const host of hosts) ctx.bus.ring(`host:${host}`);
  ctx.bus.ring("events");
};
