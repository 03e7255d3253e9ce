// Submits a job: checks it against its pipeline, prices the estimate, writes job, stages, uploads and events in one
// transaction, and rings. The same Idempotency-Key with the same content answers the same job; nothing is done twice.
import { createHash } from "node:crypto";
import { type FieldError, RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { type Micros, microsFromDollars } from "@renderplane/proto/kernel/units.ts";
import { z } from "zod";
import { fieldErrors } from "../domain/field-errors.ts";
import { checkRequest, estimateMicros, neededProviders, type Pipeline, planStages } from "../domain/pipeline.ts";
import { rankOf } from "../domain/queue-order.ts";
import type { Complexity, JsonObject } from "../domain/records.ts";
import type { Tx } from "../store/database.ts";
import { appendEvents } from "../store/events.ts";
import { insertFiles, type NamedArtifact, recordArtifacts } from "../store/files.ts";
import { knownProviders } from "../store/hosts.ts";
import { insertKey, lockKey } from "../store/idempotency.ts";
import { countQueuedJobs, insertJob, meanSeconds, queuePosition, readJob } from "../store/jobs.ts";
import { insertStages } from "../store/stages.ts";
import type { Context } from "./context.ts";

export type Upload = NamedArtifact;
export type Submission = {
  readonly pipeline: string;
  readonly userId: string;
  readonly channelId: string;
  readonly priority: number;
  readonly complexity: Complexity;
  readonly request: JsonObject;
  readonly externalId?: string;
  readonly idempotencyKey?: string;
  readonly haltMicros?: Micros;
  readonly uploads: readonly Upload[];
};
export type Submitted = {
  readonly jobId: string;
  readonly replayed: boolean;
  readonly position: number;
  readonly estimatedMicros: Micros;
  readonly estimatedSeconds: number;
};

const owner = z.string().min(1).max(200).default("default");
const bodySchema = z.strictObject({
  pipeline: z.string().default("narrated-video"),
  user_id: owner,
  channel_id: owner,
  priority: z.int().min(1).max(9).default(5),
  complexity: z.enum(["simple", "complex", "premium"]).default("simple"),
  external_id: z.string().min(1).max(200).optional(),
  /** Dollars at which the job stops; default: the fleet's halt line. */
  cost_limit: z.number().min(0).max(10_000).optional(),
  request: z.unknown().optional(),
});

/** Validates a whole body. Throws `invalid_request` with every field that is wrong, or `unknown_pipeline`. */
export const parseSubmission = (
  body: unknown,
  pipelines: Context["pipelines"],
): Omit<Submission, "uploads" | "idempotencyKey"> => {
  const parsed = bodySchema.safeParse(body);
  const errors: FieldError[] = parsed.success ? [] : fieldErrors(parsed.error.issues, body);
  const given = body !== null && typeof body === "object" ? (body as JsonObject) : {};
  const name = typeof given.pipeline === "string" ? given.pipeline : "narrated-video";
  const pipeline = pipelines.get(name);
  if (!pipeline) {
    const known = [...pipelines.keys()].sort().join(", ");
    throw new RenderplaneError(
      "unknown_pipeline",
      `pipeline ${JSON.stringify(name.slice(0, 80))} does not exist; the pipelines are ${known}`,
      {
        fields: [{ pointer: "/pipeline", detail: `must be one of ${known}` }],
      },
    );
  }
  const checked = checkRequest(pipeline, given.request ?? {});
  if (!checked.ok) errors.push(...checked.errors);
  if (!parsed.success || !checked.ok) throw invalid(errors);
  const data = parsed.data;
  return {
    pipeline: pipeline.name,
    userId: data.user_id,
    channelId: data.channel_id,
    priority: data.priority,
    complexity: data.complexity,
    request: checked.request,
    ...(data.external_id === undefined ? {} : { externalId: data.external_id }),
    ...(data.cost_limit === undefined ? {} : { haltMicros: microsFromDollars(data.cost_limit) }),
  };
};

/** Throws invalid_request (an external_id that is taken too), provider_not_configured, queue_full, idempotency_conflict; then nothing was written. */
export const submitJob = async (ctx: Context, submission: Submission): Promise<Submitted> => {
  const pipeline = ctx.pipelines.get(submission.pipeline);
  if (!pipeline) throw new RenderplaneError("unknown_pipeline", `pipeline ${submission.pipeline} does not exist`);
  checkUploads(pipeline, submission);
  const fingerprint = fingerprintOf(submission);
  const id = ctx.newId("v");
  const estimatedMicros = estimateMicros(pipeline, submission.complexity);
  const stages = planStages(pipeline, submission.request);
  const rank = rankOf({ ...submission, baseMs: Date.now() });
  const written = await ctx.db.transaction(async (tx) => {
    const known = await replay(ctx, tx, submission, fingerprint);
    if (known) return known;
    await checkProviders(tx, pipeline, submission.request);
    const depth = await countQueuedJobs(tx);
    if (depth >= ctx.settings.queueDepth)
      throw new RenderplaneError(
        "queue_full",
        `the queue holds ${depth} jobs, its limit is ${ctx.settings.queueDepth}; try again when some have started`,
        {
          retryAfterMs: 30_000,
        },
      );
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
      notBefore: null,
      deadlineAt: null,
      onDeadline: "report",
      request: submission.request,
      estimatedMicros,
      haltMicros: submission.haltMicros ?? ctx.settings.costLimits.halt,
    });
    if (!isNew) throw await externalIdTaken(tx, submission.externalId ?? "");
    if (submission.idempotencyKey !== undefined) await insertKey(tx, submission.idempotencyKey, fingerprint, id);
    await insertStages(tx, { id, rank, userId: submission.userId, pipeline: pipeline.name, notBefore: null }, stages);
    await recordArtifacts(tx, submission.uploads);
    await insertFiles(tx, id, "", 0n, submission.uploads);
    const position = await queuePosition(tx, id);
    await appendEvents(tx, [
      {
        type: "job.queued",
        jobId: id,
        body: { pipeline: pipeline.name, position, priority: submission.priority, complexity: submission.complexity },
      },
    ]);
    const mean = await meanSeconds(tx, pipeline.name);
    return {
      jobId: id,
      replayed: false,
      position,
      estimatedMicros,
      estimatedSeconds: Math.round(mean ?? pipeline.target.seconds),
    };
  });
  if (written.replayed) return written;
  ctx.bus.ring("ready");
  ctx.bus.ring("events");
  ctx.log.info({ job: id, pipeline: pipeline.name, position: written.position }, "job queued");
  return written;
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
  const mean = await meanSeconds(tx, submission.pipeline);
  return {
    jobId: known.jobId,
    replayed: true,
    position: await queuePosition(tx, known.jobId),
    estimatedMicros: job?.estimatedMicros ?? 0n,
    estimatedSeconds: Math.round(mean ?? ctx.pipelines.get(submission.pipeline)?.target.seconds ?? 600),
  };
};

const checkUploads = (pipeline: Pipeline, { uploads, request }: Submission): void => {
  const { min, max, media } = pipeline.uploads;
  const kinds = media.map((kind) => (kind === "picture" ? "image" : kind));
  const errors: FieldError[] = [];
  if (uploads.length < min || uploads.length > max)
    errors.push({
      pointer: "/media",
      detail: `${pipeline.name} takes ${min === max ? String(min) : `${min} to ${max}`} media file${max === 1 ? "" : "s"}, got ${uploads.length}`,
    });
  for (const upload of uploads)
    if (!kinds.some((kind) => upload.mediaType.startsWith(`${kind}/`)))
      errors.push({
        pointer: `/media/${upload.name}`,
        detail: `${upload.name} is ${upload.mediaType}; ${pipeline.name} takes ${media.join(" or ")} files`,
      });
  const names =
    request.media_names !== null && typeof request.media_names === "object" ? Object.values(request.media_names) : [];
  for (const name of Array.isArray(request.media) ? request.media : [])
    if (!uploads.some((u) => u.name === name) && !names.includes(name))
      errors.push({
        pointer: "/request/media",
        detail: `request.media names ${JSON.stringify(name)}, which was not uploaded with the job`,
      });
  if (errors.length > 0) throw invalid(errors);
};

const checkProviders = async (tx: Tx, pipeline: Pipeline, request: JsonObject): Promise<void> => {
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

const invalid = (errors: readonly FieldError[]): RenderplaneError =>
  new RenderplaneError("invalid_request", errors.map((e) => e.detail).join("; "), { fields: errors });

const fingerprintOf = ({ idempotencyKey: _, ...rest }: Submission): string =>
  createHash("sha256").update(canonical(rest)).digest("hex");
const canonical = (value: unknown): string =>
  typeof value === "bigint"
    ? String(value)
    : value !== null && typeof value === "object"
      ? Array.isArray(value)
        ? `[${value.map(canonical).join(",")}]`
        : `{${Object.entries(value)
            .sort(([a], [b]) => (a < b ? -1 : 1))
            .map(([k, v]) => `${JSON.stringify(k)}:${canonical(v)}`)
            .join(",")}}`
      : (JSON.stringify(value) ?? "null");
