// Cancels a job. What has not begun is cancelled at once; what a host holds becomes `cancelling`, and the host is told until it
// has stopped: the job ends when nothing can cost money any more.
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { isFinalJob } from "@renderplane/proto/kernel/stage-state.ts";
import { hostsOfJobs } from "../store/attempts.ts";
import { readJob, requestJobCancel } from "../store/jobs.ts";
import { lockSheetJobs } from "../store/sheet.ts";
import type { Context } from "./context.ts";
import { openJobSheet } from "./job-sheet.ts";

/** Throws job_not_found, job_is_final. A second cancel of a job that is still stopping changes nothing. */
export const cancelJob = async (ctx: Context, jobId: string, reason: string): Promise<void> => {
  const known = await readJob(ctx.db.direct, jobId);
  if (!known) throw new RenderplaneError("job_not_found", `there is no job ${jobId}`);
  const hosts = await ctx.db.transaction(async (tx) => {
    const sheet = await openJobSheet(ctx, tx, await lockSheetJobs(tx, [known.id]));
    const job = sheet.job(known.id);
    if (!job) throw new RenderplaneError("job_not_found", `there is no job ${jobId}`);
    if (isFinalJob(job.state))
      throw new RenderplaneError(
        "job_is_final",
        `job ${job.id} has already ended as ${job.state}; nothing was changed`,
      );
    if (job.cancelRequestedAt === null) {
      await requestJobCancel(tx, job.id);
      sheet.addEvents([{ type: "job.cancel_requested", jobId: job.id, body: { reason } }]);
      for (const stage of job.stages) sheet.move(stage.id, "cancel");
      sheet.advance(job.id);
      await sheet.write();
    }
    return hostsOfJobs(tx, [job.id]);
  });
  for (const host of hosts) ctx.bus.ring(`host:${host}`);
  ctx.bus.ring("events");
};
