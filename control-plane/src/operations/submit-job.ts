// Submits a job: checks it against its pipeline, prices the estimate, writes job, stages, uploads and events in one
// transaction, and rings. The same Idempotency-Key with the same content answers the same job; nothing is done twice.
// Its place in the queue is decided here, once (domain/queue-order.ts); a full queue refuses with the place it would have had.
import { createHash } from "node:crypto";
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import type { Micros } from "@renderplane/proto/kernel/units.ts";
import { estimateMicros, neededProviders, type Pipeline, planStages } from "../domain/pipeline.ts";
import { baseOf, exactPlaces, rankOf } from "../domain/queue-order.ts";
import type { JsonObject } from "../domain/records.ts";
import type { Tx } from "../store/database.ts";
import { appendEvents } from "../store/events.ts";
import { insertFiles, recordArtifacts } from "../store/files.ts";
import { knownProviders } from "../store/hosts.ts";
import { insertKey, lockKey } from "../store/idempotency.ts";
import { insertJob, placeOf, queuePosition, readJob } from "../store/jobs.ts";
import { type LaneHistory, laneHistory } from "../store/queue.ts";
import { peekShare, takeShare } from "../store/shares.ts";
import { insertStages } from "../store/stages.ts";
import type { Context } from "./context.ts";
import { checkUploads, invalid, type Submission } from "./parse-submission.ts";
import { exactDepth, type QueueDepth } from "./queue-depth.ts";

export { parseSubmission, type Submission, type Upload } from "./parse-submission.ts";

export type Submitted = {
  readonly jobId: string;
  readonly replayed: boolean;
  readonly position: number;
  readonly estimatedMicros: Micros;
  readonly estimatedSeconds: number;
};

/** A queue that was full is looked at again after this: about what the shortest stage takes. */
const fullRetryMs = 30_000;
/**
 * Throws invalid_request (an external_id that is taken too), provider_not_configured, queue_full, idempotency_conflict; then
 * nothing was written.
 */
export const submitJob = async (
  ctx: Context,
  submission: Submission,
  readDepth: QueueDepth = exactDepth,
): Promise<Submitted> => {
  const pipeline = ctx.pipelines.get(submission.pipeline);
  if (!pipeline) throw new RenderplaneError("unknown_pipeline", `pipeline ${submission.pipeline} does not exist`);
  checkUploads(pipeline, submission);
  const fingerprint = fingerprintOf(submission);
  const id = ctx.newId("v");
  const estimatedMicros = estimateMicros(pipeline, submission.complexity);
  const stages = planStages(pipeline, submission.request, submission.complexity);
  const [notBefore, deadlineAt] = [submission.notBefore ?? null, submission.deadlineAt ?? null];
  const written = await ctx.db.transaction(async (tx) => {
    const known = await replay(ctx, tx, submission, fingerprint);
    if (known) return known;
    await checkProviders(tx, pipeline, submission.request);
    const history = await laneHistory(tx, submission);
    const depth = await readDepth(tx, ctx.settings.queueDepth);
    if (depth >= ctx.settings.queueDepth) throw await queueFull(tx, ctx, pipeline, submission, history, id, depth);
    // As late as can be: from here on the next submission of the same owner waits until this one has committed.
    const rank = rankIn(pipeline, submission, history, await takeShare(tx, submission));
    const isNew = await insertJob(tx, {
      id,
      externalId: submission.externalId ?? null,
      pipeline: pipeline.name,
      pipelineVersion: pipeline.version,
      userId: submission.userId,
      channelId: submission.channelId,
      priority: submission.priority,
      complexity: submission.complexity,
      rank,
      notBefore,
      deadlineAt,
      onDeadline: submission.onDeadline ?? "report",
      request: submission.request,
      estimatedMicros,
      haltMicros: submission.haltMicros ?? ctx.settings.costLimits.halt,
    });
    if (!isNew) throw await externalIdTaken(tx, submission.externalId ?? "");
    if (submission.idempotencyKey !== undefined) await insertKey(tx, submission.idempotencyKey, fingerprint, id);
    await insertStages(tx, { id, rank, userId: submission.userId, pipeline: pipeline.name, notBefore }, stages);
    await recordArtifacts(tx, submission.uploads);
    await insertFiles(
      tx,
      submission.uploads.map((upload) => ({ ...upload, jobId: id, stage: "", fence: 0n })),
    );
    const position = await placeOf(tx, rank, id);
    await appendEvents(tx, [
      {
        type: "job.queued",
        jobId: id,
        body: {
          pipeline: pipeline.name,
          position,
          priority: submission.priority,
          complexity: submission.complexity,
          ...(notBefore && { not_before: notBefore.toISOString() }),
          ...(deadlineAt && { deadline: deadlineAt.toISOString() }),
        },
      },
    ]);
    return {
      jobId: id,
      replayed: false,
      position,
      estimatedMicros,
      estimatedSeconds: expectedSeconds(pipeline, history),
    };
  });
  if (written.replayed) return written;
  ctx.bus.ring("ready");
  ctx.bus.ring("events");
  ctx.log.info({ job: id, pipeline: pipeline.name, position: written.position }, "job queued");
  return written;
};

/** The place of one more job, from the clocks of its owners and what its lane takes. */
export const rankIn = (
  pipeline: Pipeline,
  job: Pick<Submission, "priority" | "complexity" | "notBefore" | "deadlineAt">,
  history: LaneHistory | undefined,
  share: { readonly fairMs: number; readonly nowMs: number },
): bigint =>
  rankOf({
    priority: job.priority,
    complexity: job.complexity,
    baseMs: baseOf({
      ...share,
      notBeforeMs: job.notBefore?.getTime() ?? null,
      deadlineMs: job.deadlineAt?.getTime() ?? null,
      expectedMs: (history?.seconds.high ?? pipeline.target.seconds) * 1000,
    }),
  });

const expectedSeconds = (pipeline: Pipeline, history: LaneHistory | undefined): number =>
  Math.round(history?.wallSeconds ?? pipeline.target.seconds);

const queueFull = async (
  tx: Tx,
  ctx: Context,
  pipeline: Pipeline,
  submission: Submission,
  history: LaneHistory | undefined,
  id: string,
  depth: number,
): Promise<RenderplaneError> => {
  const place = await placeOf(tx, rankIn(pipeline, submission, history, await peekShare(tx, submission)), id);
  const limit = ctx.settings.queueDepth;
  return new RenderplaneError(
    "queue_full",
    `the queue holds ${depth} jobs, its limit is ${limit}; this one would stand at place ${place}${place > exactPlaces ? " or later" : ""}. Try again when some have started`,
    { retryAfterMs: fullRetryMs, fields: [{ pointer: "/position", detail: String(place) }] },
  );
};

const replay = async (
  ctx: Context,
  tx: Tx,
  submission: Submission,
  fingerprint: string,
): Promise<Submitted | undefined> => {
  if (submission.idempotencyKey === undefined) return undefined;
  const known = await lockKey(tx, submission.idempotencyKey);
  if (!known) return undefined;
  if (known.fingerprint !== fingerprint)
    throw new RenderplaneError(
      "idempotency_conflict",
      "this Idempotency-Key was used for another submission; use a new key for a new job",
    );
  const job = await readJob(tx, known.jobId);
  const pipeline = ctx.pipelines.get(submission.pipeline) as Pipeline;
  return {
    jobId: known.jobId,
    replayed: true,
    position: await queuePosition(tx, known.jobId),
    estimatedMicros: job?.estimatedMicros ?? 0n,
    estimatedSeconds: expectedSeconds(pipeline, await laneHistory(tx, submission)),
  };
};

export const checkProviders = async (tx: Tx, pipeline: Pipeline, request: JsonObject): Promise<void> => {
  const needed = neededProviders(pipeline, request);
  if (needed.length === 0) return;
  const known = new Set(await knownProviders(tx));
  for (const rule of needed)
    if (!rule.any.some((provider) => known.has(provider)))
      throw new RenderplaneError(
        "provider_not_configured",
        `request.${rule.present} needs ${rule.any.join(" or ")} for ${rule.stage}, and no host is configured for it; set ${rule.setting} for an agent${rule.absent ? `, or send request.${rule.absent}` : ""}`,
        { fields: [{ pointer: `/request/${rule.present}`, detail: `needs a host with ${rule.setting}` }] },
      );
};

const externalIdTaken = async (tx: Tx, externalId: string): Promise<RenderplaneError> => {
  const other = await readJob(tx, externalId);
  const detail = `external_id ${JSON.stringify(externalId)} is that of job ${other?.id}; leave it out or choose another`;
  return invalid([{ pointer: "/external_id", detail }]);
};

const fingerprintOf = ({ idempotencyKey: _, ...rest }: Submission): string =>
  createHash("sha256").update(canonical(rest)).digest("hex");
const canonical = (value: unknown): string =>
  typeof value === "bigint"
    ? String(value)
    : value instanceof Date
      ? value.toISOString()
      : value !== null && typeof value === "object"
        ? Array.isArray(value)
          ? `[${value.map(canonical).join(",")}]`
          : `{${Object.entries(value)
              .sort(([a], [b]) => (a < b ? -1 : 1))
              .map(([k, v]) => `${JSON.stringify(k)}:${canonical(v)}`)
              .join(",")}}`
        : (JSON.stringify(value) ?? "null");
