// /api/v1/queue and /api/v1/estimates: what waits and why, and what a submission would become. Words and units only; the figures
// are the operations'. Invariant: neither writes anything.
import { createRoute, OpenAPIHono, z } from "@hono/zod-openapi";
import { maxJobBodyBytes } from "@renderplane/proto/kernel/limits.ts";
import { dollarsFromMicros } from "@renderplane/proto/kernel/units.ts";
import type { EstimateAnswer } from "../operations/estimate-job.ts";
import type { QueueSight } from "../operations/view-queue.ts";
import { readJson } from "./body.ts";
import type { HttpEnv } from "./guards.ts";
import { etaJson, placeJson, timeText } from "./job-json.ts";
import { complexities, etaSchema, placeSchema, positionNote, submissionSchema, time } from "./job-schema.ts";
import type { HttpOperations } from "./operations.ts";
import { problems } from "./problem.ts";
import { describeBody, refuseInvalid } from "./validation.ts";

const seconds = z.number().openapi({ description: "seconds" });
const limitsByName = z.record(z.string(), z.int());
export const queueSchema = z
  .strictObject({
    depth: z.int().openapi({ description: "Jobs that wait." }),
    processing: z.int().openapi({ description: "Jobs that have begun and not ended." }),
    scheduled: z.int().openapi({ description: "Jobs that wait for their not_before." }),
    resting_stages: z.int().openapi({ description: "Stages that wait before another try." }),
    oldest_wait_seconds: seconds.nullable().openapi({ description: "Of the jobs that may begin." }),
    lanes: z
      .array(
        z.strictObject({
          pipeline: z.string(),
          complexity: z.enum(complexities),
          queued: z.int(),
          processing: z.int(),
          oldest_wait_seconds: seconds.nullable(),
        }),
      )
      .openapi({ description: "Of a queue deeper than 10000 the first 10000 places are counted." }),
    last_24_hours: z
      .strictObject({ enqueued: z.int(), completed: z.int(), failed: z.int(), cancelled: z.int() })
      .openapi({ description: "Jobs submitted in the last 24 hours, by what has become of them." }),
    limits: z.strictObject({
      depth: z.int(),
      jobs: z.int(),
      jobs_per_user: z.int(),
      pipelines: limitsByName,
      providers: limitsByName,
    }),
    reached: z
      .strictObject({
        jobs: z.boolean(),
        users: z.array(z.string()),
        pipelines: z.array(z.string()),
        providers: z.array(z.string()),
      })
      .openapi({ description: "Limits that hold work back now." }),
    head: z
      .array(
        z.strictObject({
          id: z.string(),
          position: z.int(),
          pipeline: z.string(),
          user_id: z.string(),
          channel_id: z.string(),
          priority: z.int(),
          complexity: z.enum(complexities),
          created_at: time,
          not_before: time.nullable(),
          place: placeSchema,
        }),
      )
      .openapi({ description: "The first 50 in their order." }),
  })
  .openapi("Queue");

const fieldError = z.strictObject({ pointer: z.string(), detail: z.string() });
const dollars = z.number().openapi({ description: "US dollars" });
export const estimateSchema = z
  .discriminatedUnion("valid", [
    z.strictObject({ valid: z.literal(false), reason: z.string(), errors: z.array(fieldError) }),
    z.strictObject({
      valid: z.literal(true),
      pipeline: z.string(),
      complexity: z.enum(complexities),
      position: z.int().openapi({ description: `${positionNote}.` }),
      queue: z.strictObject({ depth: z.int(), limit: z.int(), is_full: z.boolean() }),
      ...etaSchema.shape,
      cost: z.strictObject({
        estimate: dollars,
        low: dollars,
        high: dollars,
        limit: dollars.openapi({ description: "The job stops before it would cost more." }),
        basis: z.enum(["history", "target"]),
      }),
      hosts: z.int().openapi({ description: "Hosts that could take every stage." }),
      stages: z.array(
        z.strictObject({
          stage: z.string(),
          hosts: z.int().openapi({ description: "Hosts that could take it when nothing ran on them." }),
          hosts_now: z.int(),
          reasons: z
            .array(z.strictObject({ rule: z.string(), hosts: z.int(), example: z.string() }))
            .openapi({ description: "Why the others cannot take it now, most frequent first." }),
        }),
      ),
    }),
  ])
  .openapi("Estimate");

const queue = createRoute({
  method: "get",
  path: "/api/v1/queue",
  tags: ["jobs"],
  summary: "What waits, by lane, and the head of the queue in its exact order",
  responses: {
    200: { description: "The queue", content: { "application/json": { schema: queueSchema } } },
    ...problems("unavailable"),
  },
});
const estimate = createRoute({
  hide: true,
  method: "post",
  path: "/api/v1/estimates",
  tags: ["jobs"],
  summary: "What a submission would become, without making it",
  description:
    "The body of POST /api/v1/jobs as JSON. Nothing is written and no key is needed. Fields that are wrong are answered as " +
    "`valid: false`. Media files are not part of it: they are checked when the job is submitted.",
  responses: {
    200: { description: "The estimate", content: { "application/json": { schema: estimateSchema } } },
    ...problems("malformed_body", "body_too_large", "unsupported_media_type", "unknown_pipeline", "unavailable"),
  },
});

export const queueRoutes = (operations: Pick<HttpOperations, "viewQueue" | "estimateJob">): OpenAPIHono<HttpEnv> => {
  const app = new OpenAPIHono<HttpEnv>({ defaultHook: refuseInvalid });
  describeBody(app, estimate, { "application/json": submissionSchema });
  app.openapi(queue, async (c) => c.json(queueJson(await operations.viewQueue()), 200));
  app.openapi(estimate, async (c) => {
    const body = await readJson(c.env.incoming, maxJobBodyBytes);
    return c.json(estimateJson(await operations.estimateJob(body ?? null)), 200);
  });
  return app;
};

const queueJson = (sight: QueueSight): z.infer<typeof queueSchema> => ({
  depth: sight.depth,
  processing: sight.processing,
  scheduled: sight.scheduled,
  resting_stages: sight.resting,
  oldest_wait_seconds: sight.oldestSeconds,
  lanes: sight.lanes.map((lane) => ({
    pipeline: lane.pipeline,
    complexity: lane.complexity,
    queued: lane.queued,
    processing: lane.processing,
    oldest_wait_seconds: lane.oldestSeconds,
  })),
  last_24_hours: { ...sight.day },
  limits: {
    depth: sight.limits.depth,
    jobs: sight.limits.jobs,
    jobs_per_user: sight.limits.jobsPerUser,
    pipelines: Object.fromEntries(sight.limits.pipelines),
    providers: Object.fromEntries(sight.limits.providers),
  },
  reached: {
    jobs: sight.closed.fleet,
    users: [...sight.closed.users],
    pipelines: [...sight.closed.pipelines],
    providers: [...sight.closed.providers],
  },
  head: sight.head.map((job, i) => ({
    id: job.id,
    position: i + 1,
    pipeline: job.pipeline,
    user_id: job.userId,
    channel_id: job.channelId,
    priority: job.priority,
    complexity: job.complexity,
    created_at: job.createdAt.toISOString(),
    not_before: timeText(job.notBefore),
    place: placeJson(job.parts),
  })),
});

const estimateJson = (answer: EstimateAnswer): z.infer<typeof estimateSchema> => {
  if (!answer.valid) return { valid: false, reason: answer.reason, errors: answer.errors.map((e) => ({ ...e })) };
  const { estimate: e } = answer;
  return {
    valid: true,
    pipeline: e.pipeline,
    complexity: e.complexity,
    position: e.position,
    queue: { depth: e.depth, limit: e.depthLimit, is_full: e.depth >= e.depthLimit },
    ...etaJson(e.outlook),
    cost: {
      estimate: dollarsFromMicros(e.cost.estimate),
      low: dollarsFromMicros(e.cost.low),
      high: dollarsFromMicros(e.cost.high),
      limit: dollarsFromMicros(e.cost.limit),
      basis: e.costBasis,
    },
    hosts: e.hosts,
    stages: e.stages.map((stage) => ({
      stage: stage.stage,
      hosts: stage.hosts,
      hosts_now: stage.hostsNow,
      reasons: stage.reasons.map((reason) => ({ ...reason })),
    })),
  };
};
