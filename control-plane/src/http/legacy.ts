// The older paths of requirements 002, with their shapes: POST /pipeline/queue, GET /pipeline/status/{video_id} and the
// WebSocket /pipeline/stream/{video_id}. They do what /api/v1 does, by the same operations; only the words differ.
// Invariant: an answer has exactly the fields that the older clients know; errors are 400 with `detail`, and 404.
import { upgradeWebSocket } from "@hono/node-server";
import { createRoute, OpenAPIHono, z } from "@hono/zod-openapi";
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { maxJobBodyBytes } from "@renderplane/proto/kernel/limits.ts";
import { jobStates } from "@renderplane/proto/kernel/stage-state.ts";
import { dollarsFromMicros } from "@renderplane/proto/kernel/units.ts";
import { readJson } from "./body.ts";
import type { EventFeed } from "./event-feed.ts";
import type { HttpEnv } from "./guards.ts";
import { complexities, jsonObject } from "./job-schema.ts";
import type { LiveStreams } from "./live-streams.ts";
import type { HttpContext, HttpOperations } from "./operations.ts";
import { problems } from "./problem.ts";
import { streamProgress } from "./progress-socket.ts";
import { idempotencyKeyOf } from "./submission.ts";
import { describeBody, refuseInvalid } from "./validation.ts";

/** What the older interface answered always; now only when nothing is known. */
const defaultSeconds = 600;
const jobFields = new Set(["user_id", "channel_id", "priority", "complexity", "pipeline"]);

const queue = createRoute({
  hide: true,
  method: "post",
  path: "/pipeline/queue",
  tags: ["older paths"],
  summary: "Submit a video (same as POST /api/v1/jobs)",
  description:
    "One flat JSON object: user_id, channel_id, priority and complexity belong to the job, every other field to the request. " +
    "Fields that the pipeline does not know are left out, as these clients expect.",
  responses: {
    200: {
      description: "Queued",
      content: {
        "application/json": {
          schema: z
            .strictObject({
              video_id: z.string(),
              position: z.int(),
              estimated_cost: z.number(),
              estimated_time: z.number(),
            })
            .openapi("QueuedVideo"),
        },
      },
    },
    ...problems("malformed_body"),
  },
});

const statusSchema = z
  .strictObject({
    video_id: z.string(),
    status: z.enum(jobStates),
    priority: z.int(),
    complexity: z.enum(complexities),
    estimated_cost: z.number(),
    actual_cost: z.number(),
    processing_time: z.number().nullable(),
    started_at: z.iso.datetime().nullable(),
    completed_at: z.iso.datetime().nullable(),
  })
  .openapi("VideoStatus");
const status = createRoute({
  method: "get",
  path: "/pipeline/status/{video_id}",
  tags: ["older paths"],
  summary: "Status of a video",
  request: { params: z.object({ video_id: z.string() }) },
  responses: {
    200: { description: "The status", content: { "application/json": { schema: statusSchema } } },
    ...problems("job_not_found"),
  },
});

export const legacyRoutes = (
  ctx: HttpContext,
  operations: HttpOperations,
  feed: EventFeed,
  streams: LiveStreams,
): OpenAPIHono<HttpEnv> => {
  const app = new OpenAPIHono<HttpEnv>({ defaultHook: refuseInvalid });

  describeBody(app, queue, { "application/json": jsonObject });
  app.openapi(queue, async (c) => {
    const idempotencyKey = idempotencyKeyOf(c.req.header("idempotency-key"));
    const body = await readJson(c.env.incoming, maxJobBodyBytes);
    const parsed = operations.parseSubmission(newShape(body, ctx.pipelines));
    const submitted = await operations.submitJob({
      ...parsed,
      uploads: [],
      ...(idempotencyKey === undefined ? {} : { idempotencyKey }),
    });
    if (submitted.replayed) c.header("idempotency-replayed", "true");
    return c.json(
      {
        video_id: submitted.jobId,
        position: submitted.position,
        estimated_cost: dollarsFromMicros(submitted.estimatedMicros),
        estimated_time: submitted.estimatedSeconds > 0 ? submitted.estimatedSeconds : defaultSeconds,
      },
      200,
    );
  });

  app.openapi(status, async (c) => {
    const { video_id } = c.req.valid("param");
    const detail = await operations.readJobDetail(video_id);
    if (!detail) throw new RenderplaneError("job_not_found", "Video not found");
    const { job } = detail;
    return c.json(
      {
        video_id,
        status: job.state,
        priority: job.priority,
        complexity: job.complexity,
        estimated_cost: dollarsFromMicros(job.estimatedMicros),
        actual_cost: dollarsFromMicros(job.spentMicros),
        processing_time: job.startedAt && job.endedAt ? (job.endedAt.getTime() - job.startedAt.getTime()) / 1000 : null,
        started_at: job.startedAt?.toISOString() ?? null,
        completed_at: job.endedAt?.toISOString() ?? null,
      },
      200,
    );
  });

  app.get(
    "/pipeline/stream/:video_id",
    async (c, next) => {
      if (c.req.header("upgrade")?.toLowerCase() !== "websocket")
        throw new RenderplaneError("invalid_request", "This address is a WebSocket.", {
          next: "Open it with ws:// or wss://.",
        });
      streams.checkRoom();
      await next();
    },
    upgradeWebSocket((c) => streamProgress(c.req.param("video_id") ?? "", operations, feed, streams)),
  );
  return app;
};

/** The flat body of the older interface as a body of ours. What is not an object is left for the validator to refuse. */
const newShape = (body: unknown, pipelines: HttpContext["pipelines"]): unknown => {
  const flat = jsonObject.safeParse(body);
  if (!flat.success) return body ?? null;
  const name = typeof flat.data.pipeline === "string" ? flat.data.pipeline : "narrated-video";
  const known = jsonObject.safeParse(pipelines.get(name)?.request.properties).data ?? {};
  const entries = Object.entries(flat.data);
  return {
    ...Object.fromEntries(entries.filter(([key]) => jobFields.has(key))),
    pipeline: name,
    request: Object.fromEntries(entries.filter(([key]) => !jobFields.has(key) && Object.hasOwn(known, key))),
  };
};
