// Reads the body of a submission: every field that is wrong is named at once, against the pipeline that it names and the files that
// came with it. Decides nothing about the queue and reads no facts; submit-job.ts does.
import { type FieldError, RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { type Micros, microsFromDollars } from "@renderplane/proto/kernel/units.ts";
import { z } from "zod";
import { fieldErrors } from "../domain/field-errors.ts";
import { checkRequest, type Pipeline } from "../domain/pipeline.ts";
import type { Complexity, JsonObject } from "../domain/records.ts";
import type { NamedArtifact } from "../store/files.ts";
import type { Context } from "./context.ts";

export type Upload = NamedArtifact;
export type Submission = {
  readonly pipeline: string;
  readonly userId: string;
  readonly channelId: string;
  readonly priority: number;
  readonly complexity: Complexity;
  readonly request: JsonObject;
  readonly notBefore?: Date;
  readonly deadlineAt?: Date;
  readonly onDeadline?: "report" | "cancel";
  readonly externalId?: string;
  readonly idempotencyKey?: string;
  readonly haltMicros?: Micros;
  readonly uploads: readonly Upload[];
};
/** A job that may not begin for a year is a mistake in a date. */
const furthestMs = 366 * 86_400_000;

const instant = z.iso.datetime({ offset: true }).transform((text) => new Date(text));
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
  /** Not begun before. */
  not_before: instant.optional(),
  deadline: instant.optional(),
  /** What happens when it passes: an event, or the job is cancelled too. */
  on_deadline: z.enum(["report", "cancel"]).optional(),
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
  if (parsed.success) errors.push(...wrongTimes(parsed.data, Date.now()));
  if (!parsed.success || !checked.ok || errors.length > 0) throw invalid(errors);
  const data = parsed.data;
  return {
    pipeline: pipeline.name,
    userId: data.user_id,
    channelId: data.channel_id,
    priority: data.priority,
    complexity: data.complexity,
    request: checked.request,
    ...(data.not_before && { notBefore: data.not_before }),
    ...(data.deadline && { deadlineAt: data.deadline }),
    ...(data.on_deadline && { onDeadline: data.on_deadline }),
    ...(data.external_id === undefined ? {} : { externalId: data.external_id }),
    ...(data.cost_limit === undefined ? {} : { haltMicros: microsFromDollars(data.cost_limit) }),
  };
};

const wrongTimes = (
  { not_before, deadline, on_deadline }: Pick<z.output<typeof bodySchema>, "not_before" | "deadline" | "on_deadline">,
  nowMs: number,
): FieldError[] => {
  const wrong = (field: string, detail: string): FieldError => ({ pointer: `/${field}`, detail: `${field} ${detail}` });
  return [
    ...(not_before && not_before.getTime() > nowMs + furthestMs
      ? [wrong("not_before", "is more than a year away")]
      : []),
    ...(deadline && deadline.getTime() <= nowMs ? [wrong("deadline", "has passed already")] : []),
    ...(deadline && not_before && deadline <= not_before ? [wrong("deadline", "must be later than not_before")] : []),
    ...(on_deadline && !deadline ? [wrong("on_deadline", "needs a deadline; give one or leave it out")] : []),
  ];
};

/** The files against what the pipeline takes and what the request names. Throws invalid_request. */
export const checkUploads = (pipeline: Pipeline, { uploads, request }: Submission): void => {
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

export const invalid = (errors: readonly FieldError[]): RenderplaneError =>
  new RenderplaneError("invalid_request", errors.map((e) => e.detail).join("; "), { fields: errors });
