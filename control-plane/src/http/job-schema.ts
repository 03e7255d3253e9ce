// What a job looks like to clients (snake_case, dollars, seconds, RFC 3339): one schema that gives types, answers and the
// OpenAPI document. It decides names and units only; job-json.ts fills it. Fields are added, never renamed or removed.

import { z } from "@hono/zod-openapi";
import { attemptOutcomes, attemptStates, jobStates, stageStates } from "@renderplane/proto/kernel/stage-state.ts";

export const time = z.iso.datetime();
const dollars = z.number().openapi({ description: "US dollars" });
const seconds = z.number().openapi({ description: "seconds" });
export const jsonObject = z.record(z.string(), z.unknown());
export const complexities = ["simple", "complex", "premium"] as const;

export const failureSchema = z
  .strictObject({
    class: z.string().openapi({ description: "A stable word for the cause, like input_corrupt or host_lost." }),
    severity: z.string(),
    stage: z.string().nullable(),
    message: z.string(),
    evidence: z.string().nullable().openapi({ description: "The last lines that the program wrote." }),
    exit: z.string().nullable(),
  })
  .openapi("Failure");

const attemptSchema = z
  .strictObject({
    id: z.string(),
    number: z.int(),
    host_id: z.string(),
    host: z.string(),
    state: z.enum(attemptStates),
    outcome: z.enum(attemptOutcomes).nullable(),
    fence: z.int(),
    progress: z.number().min(0).max(1),
    step: z.string(),
    started_at: time.nullable(),
    ended_at: time.nullable(),
    charge: dollars,
    failure: failureSchema.nullable(),
    verdict: jsonObject
      .nullable()
      .openapi({ description: "The recovery rule that decided what follows, with its facts." }),
  })
  .openapi("Attempt");

export const stageSchema = z
  .strictObject({
    name: z.string(),
    kind: z.string(),
    state: z.enum(stageStates),
    progress: z.number().min(0).max(1),
    step: z.string(),
    eta_seconds: seconds.nullable(),
    tries: z.int(),
    retries: z.int(),
    estimated_cost: dollars,
    actual_cost: dollars,
    started_at: time.nullable(),
    ended_at: time.nullable(),
    elapsed_seconds: seconds.nullable(),
    waiting_reason: jsonObject.nullable(),
    failure: failureSchema.nullable(),
    result: jsonObject.nullable(),
    attempts: z.array(attemptSchema),
  })
  .openapi("Stage");

const timeRange = z.strictObject({ earliest: time, latest: time });
export const etaSchema = z
  .strictObject({
    start: timeRange.nullable().openapi({ description: "Null once it has begun, or when no host can take it." }),
    finish: timeRange.nullable(),
    basis: z.enum(["history", "target"]).openapi({
      description: "history: what the last jobs of its lane took; target: the pipeline's promise, as there are none.",
    }),
  })
  .openapi("Eta");
export const placeSchema = z
  .strictObject({
    rank: z
      .int()
      .openapi({ description: "Unix ms, the smallest is next: since - priority_seconds - premium_seconds." }),
    since: time.openapi({ description: "Where it stands in time, before its priority." }),
    share_seconds: seconds.openapi({ description: "How far the share of its user and channel has moved it back." }),
    priority_seconds: seconds,
    premium_seconds: seconds,
  })
  .openapi("QueuePlace");
export const positionNote =
  "1-based place in the queue, exact up to 10000; 10001 means that place or a later one; -1 when it does not wait";

const common = {
  id: z.string().openapi({ example: "v_01KXYZ0123456789ABCDEFGHJK" }),
  external_id: z.string().nullable(),
  pipeline: z.string(),
  pipeline_version: z.int(),
  user_id: z.string(),
  channel_id: z.string(),
  priority: z.int(),
  complexity: z.enum(complexities),
  state: z.enum(jobStates),
  status_text: z
    .string()
    .openapi({ description: "One line for a producer.", example: "Rendering 43 % (about 2 min left)" }),
  progress: z
    .number()
    .min(0)
    .max(1)
    .nullable()
    .openapi({ description: "Null only in lists, for jobs whose stages were not read." }),
  eta_seconds: seconds
    .nullable()
    .openapi({ description: "Until the stages that run now end; null when nothing can be said." }),
  position: z.int().openapi({ description: `${positionNote} or, in lists, is not known.` }),
  place: placeSchema,
  eta: etaSchema.nullable().openapi({ description: "Only in the view of one job, while it is queued or processing." }),
  not_before: time.nullable(),
  deadline: time.nullable(),
  on_deadline: z.enum(["report", "cancel"]),
  created_at: time,
  started_at: time.nullable(),
  ended_at: time.nullable(),
  elapsed_seconds: seconds.nullable(),
  estimated_cost: dollars,
  held_cost: dollars,
  actual_cost: dollars,
  costs: z.array(z.strictObject({ service: z.string(), provider: z.string(), amount: dollars })),
  failure: failureSchema.nullable(),
  result: jsonObject.nullable(),
  links: z.record(z.string(), z.string()),
};
export const jobSchema = z.strictObject({ ...common, stages: z.array(stageSchema) }).openapi("Job");
export const jobItemSchema = z.strictObject(common).openapi("JobItem");

export const submittedSchema = z
  .strictObject({
    id: z.string(),
    state: z.literal("queued"),
    position: z.int().openapi({ description: `${positionNote}.` }),
    estimated_cost: dollars,
    estimated_seconds: seconds,
    links: z.record(z.string(), z.string()),
  })
  .openapi("SubmittedJob");

/** For the document: the body is checked by the pipeline it names, which says more than a schema can. */
export const submissionSchema = z
  .strictObject({
    pipeline: z.string().default("narrated-video"),
    user_id: z.string(),
    channel_id: z.string(),
    priority: z.int().min(1).max(9).default(5),
    complexity: z.enum(complexities).default("simple"),
    external_id: z.string().optional(),
    cost_limit: dollars.optional(),
    not_before: z.iso
      .datetime({ offset: true })
      .optional()
      .openapi({ description: "Not begun before; a year away at most." }),
    deadline: z.iso.datetime({ offset: true }).optional(),
    on_deadline: z
      .enum(["report", "cancel"])
      .default("report")
      .openapi({ description: "When the deadline passes: the event job.deadline_missed, or that and a cancel." }),
    request: jsonObject.openapi({
      description: "Fields of the pipeline: GET /api/v1/pipelines has their JSON Schema.",
    }),
  })
  .openapi("Submission");

export const explanationSchema = z
  .strictObject({
    job_id: z.string(),
    state: z.string(),
    summary: z.string(),
    stages: z.array(
      z.strictObject({
        stage: z.string(),
        state: z.string(),
        since: time,
        reason: z.string(),
        gates: z
          .array(
            z.strictObject({
              rule: z.string(),
              verdict: z.enum(["open", "closed"]),
              limit: z.int(),
              count: z.int(),
              reason: z.string(),
            }),
          )
          .openapi({ description: "Limits on what runs at once that it must pass; empty unless it waits for a host." }),
        hosts: z.array(
          z.strictObject({
            host_id: z.string(),
            host: z.string(),
            verdict: z.enum(["fits", "refused"]),
            rule: z.string(),
            reason: z.string(),
          }),
        ),
      }),
    ),
  })
  .openapi("Explanation");

export const artifactSchema = z
  .strictObject({
    stage: z.string().openapi({ description: '"uploads" for the files that came with the job.' }),
    name: z.string(),
    original_name: z.string().openapi({ description: "What the sender called it; the name itself for outputs." }),
    sha256: z.string(),
    size_bytes: z.int(),
    media_type: z.string(),
    url: z.string(),
  })
  .openapi("Artifact");
