// Binds the edge's operations and reads to the real ones of a context: the one place of this room that knows them by name.
// The composition root calls it. Reads use single statements; what must be seen together is read by one store function.
import { cancelJob } from "../operations/cancel-job.ts";
import type { Context } from "../operations/context.ts";
import { explainJob } from "../operations/explain-job.ts";
import { issueJoinToken } from "../operations/issue-join-token.ts";
import { parseSubmission, submitJob } from "../operations/submit-job.ts";
import { eventsAfter, lastEventSeq } from "../store/events.ts";
import { listFiles } from "../store/files.ts";
import { listHosts, liveAllocations } from "../store/hosts.ts";
import { readJobDetail } from "../store/job-detail.ts";
import { countJobs, listJobs } from "../store/jobs.ts";
import { countStages } from "../store/stages.ts";
import type { HttpOperations } from "./operations.ts";

export const bindHttpOperations = (ctx: Context): HttpOperations => {
  const { direct } = ctx.db;
  return {
    parseSubmission: (body) => parseSubmission(body, ctx.pipelines),
    submitJob: (submission) => submitJob(ctx, submission),
    cancelJob: (jobId, reason) => cancelJob(ctx, jobId, reason),
    explainJob: (jobId) => explainJob(ctx, jobId),
    issueJoinToken: (o) => issueJoinToken(ctx, o),
    readJobDetail: (id) => readJobDetail(direct, id),
    listJobs: (filter) => listJobs(direct, filter),
    listFiles: (jobId) => listFiles(direct, jobId),
    listHosts: () => listHosts(direct),
    liveAllocations: () => liveAllocations(direct),
    eventsAfter: (o) => eventsAfter(direct, o),
    lastEventSeq: () => lastEventSeq(direct),
    countStages: () => countStages(direct),
    countJobs: () => countJobs(direct),
  };
};
