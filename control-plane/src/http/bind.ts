// Binds the edge's operations and reads to the real ones of a context: the one place of this room that knows them by name.
// The composition root calls it. Reads use single statements; what must be seen together is read by one store function.
import { cancelJob } from "../operations/cancel-job.ts";
import type { Context } from "../operations/context.ts";
import { estimateJob, outlookOfJob } from "../operations/estimate-job.ts";
import { explainJob } from "../operations/explain-job.ts";
import { issueJoinToken } from "../operations/issue-join-token.ts";
import { openValve } from "../operations/judge-valves.ts";
import { createQueueDepth } from "../operations/queue-depth.ts";
import { removeHost } from "../operations/remove-host.ts";
import { revokeCertificate } from "../operations/revoke-certificate.ts";
import { setIntent } from "../operations/set-intent.ts";
import { setPool } from "../operations/set-pool.ts";
import { parseSubmission, submitJob } from "../operations/submit-job.ts";
import { viewHost, viewHosts } from "../operations/view-host.ts";
import { viewQueue } from "../operations/view-queue.ts";
import { eventsAfter, lastEventSeq } from "../store/events.ts";
import { listFiles } from "../store/files.ts";
import { liveAllocations } from "../store/hosts.ts";
import { readJobDetail } from "../store/job-detail.ts";
import { countJobs, listJobs } from "../store/jobs.ts";
import { countStages } from "../store/stages.ts";
import { listClosedValves } from "../store/valves.ts";
import type { HttpOperations } from "./operations.ts";

export const bindHttpOperations = (ctx: Context): HttpOperations => {
  const { direct } = ctx.db;
  const readDepth = createQueueDepth();
  return {
    parseSubmission: (body) => parseSubmission(body, ctx.pipelines),
    submitJob: (submission) => submitJob(ctx, submission, readDepth),
    estimateJob: (body) => estimateJob(ctx, body),
    readOutlook: (detail) => outlookOfJob(ctx, detail),
    viewQueue: () => viewQueue(ctx),
    cancelJob: (jobId, reason) => cancelJob(ctx, jobId, reason),
    explainJob: (jobId) => explainJob(ctx, jobId),
    issueJoinToken: (o) => issueJoinToken(ctx, o),
    readJobDetail: (id) => readJobDetail(direct, id),
    listJobs: (filter) => listJobs(direct, filter),
    listFiles: (jobId) => listFiles(direct, [jobId]),
    listHosts: () => viewHosts(ctx),
    viewHost: (host) => viewHost(ctx, host),
    setIntent: (r) => setIntent(ctx, r),
    revokeCertificate: (r) => revokeCertificate(ctx, r),
    removeHost: (r) => removeHost(ctx, r),
    setPool: (r) => setPool(ctx, r),
    listClosedValves: () => listClosedValves(direct),
    openValve: (r) => openValve(ctx, r),
    liveAllocations: () => liveAllocations(direct),
    eventsAfter: (o) => eventsAfter(direct, o),
    lastEventSeq: () => lastEventSeq(direct),
    countStages: () => countStages(direct),
    countJobs: () => countJobs(direct),
  };
};
