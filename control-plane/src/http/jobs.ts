// /api/v1/jobs: submit, list, view, cancel, explain. It reads parameters, calls one operation and words the answer.
// Rules of jobs and pipelines live in the operations; files of a submission in submission.ts.
// Invariant: a list is cut by a key (created_at, id), so pages neither repeat nor miss a job while new ones arrive.
import { createRoute, OpenAPIHono, z } from "@hono/zod-openapi";
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { maxJobBodyBytes } from "@renderplane/proto/kernel/limits.ts";
import { jobStates } from "@renderplane/proto/kernel/stage-state.ts";
import type { JobDetail, JobRow } from "../domain/records.ts";
import { readJson } from "./body.ts";
import type { HttpEnv } from "./guards.ts";
import { explanationJson, type JobItemJson, jobItemJson, jobJson, submittedJson } from "./job-json.ts";
import { explanationSchema, jobItemSchema, jobSchema, submissionSchema, submittedSchema } from "./job-schema.ts";
import type { HttpContext, HttpOperations } from "./operations.ts";
import { problems } from "./problem.ts";
import { readSubmission } from "./submission.ts";
import { checkBody, describeBody, refuseInvalid } from "./validation.ts";

const maxPage = 200;
const defaultPage = 50;
/** Details that one list reads at a time: a page of running jobs must not take the whole pool of connections. */
const detailsAtOnce = 4;

export const jobParams = z.object({
  id: z.string().min(1).max(200).openapi({ description: "The id of a job, or the external_id that its sender chose." }),
});

const submit = createRoute({
  hide: true,
  method: "post",
  path: "/api/v1/jobs",
  tags: ["jobs"],
  summary: "Submit a job",
  description:
    "JSON, or multipart/form-data with one part `job` (the same JSON) and every other part a media file with a filename. " +
    "An Idempotency-Key makes a repeated submission answer the first one (Idempotency-Replayed: true).",
  request: {
    headers: z.object({ "idempotency-key": z.string().optional() }),
  },
  responses: {
    201: { description: "The job is queued", content: { "application/json": { schema: submittedSchema } } },
    ...problems(
      "malformed_body",
      "body_too_large",
      "unsupported_media_type",
      "invalid_request",
      "unknown_pipeline",
      "media_refused",
      "provider_not_configured",
      "idempotency_conflict",
      "queue_full",
      "unavailable",
      "storage_full",
    ),
  },
});

const list = createRoute({
  method: "get",
  path: "/api/v1/jobs",
  tags: ["jobs"],
  summary: "List jobs, newest first",
  request: {
    query: z.object({
      state: z.enum(jobStates).optional(),
      pipeline: z.string().optional(),
      user_id: z.string().optional(),
      channel_id: z.string().optional(),
      limit: z.coerce.number().int().min(1).max(maxPage).default(defaultPage),
      cursor: z.string().optional().openapi({ description: "next_cursor of the page before." }),
    }),
  },
  responses: {
    200: {
      description: "One page",
      content: {
        "application/json": {
          schema: z
            .strictObject({ items: z.array(jobItemSchema), next_cursor: z.string().nullable() })
            .openapi("JobPage"),
        },
      },
    },
    ...problems("invalid_request", "unavailable"),
  },
});

const view = createRoute({
  method: "get",
  path: "/api/v1/jobs/{id}",
  tags: ["jobs"],
  summary: "A job with its stages, attempts and costs",
  request: { params: jobParams },
  responses: {
    200: { description: "The job", content: { "application/json": { schema: jobSchema } } },
    ...problems("job_not_found", "unavailable"),
  },
});

const cancelSchema = z
  .strictObject({ reason: z.string().min(1).max(500).default("cancelled by a person") })
  .openapi("Cancel");
const cancel = createRoute({
  hide: true,
  method: "post",
  path: "/api/v1/jobs/{id}/cancel",
  tags: ["jobs"],
  summary: "Cancel a job",
  description:
    "The body is optional. Work that runs is stopped on its host first; the job is cancelled when it has ended.",
  request: { params: jobParams },
  responses: {
    202: { description: "The job as it stands now", content: { "application/json": { schema: jobSchema } } },
    ...problems("malformed_body", "invalid_request", "job_not_found", "job_is_final", "unavailable"),
  },
});

const explain = createRoute({
  method: "get",
  path: "/api/v1/jobs/{id}/explain",
  tags: ["jobs"],
  summary: "Why a job waits, with a reason for every host",
  request: { params: jobParams },
  responses: {
    200: { description: "The explanation", content: { "application/json": { schema: explanationSchema } } },
    ...problems("job_not_found", "unavailable"),
  },
});

export const jobRoutes = (ctx: HttpContext, operations: HttpOperations): OpenAPIHono<HttpEnv> => {
  const app = new OpenAPIHono<HttpEnv>({ defaultHook: refuseInvalid });
  describeBody(app, submit, {
    "application/json": submissionSchema,
    "multipart/form-data": z.object({
      job: submissionSchema,
      media: z.array(z.string().openapi({ format: "binary" })).optional(),
    }),
  });
  describeBody(app, cancel, { "application/json": cancelSchema }, false);

  app.openapi(submit, async (c) => {
    const submission = await readSubmission(c.env.incoming, ctx, operations);
    const submitted = await operations.submitJob(submission);
    if (submitted.replayed) c.header("idempotency-replayed", "true");
    c.header("location", `/api/v1/jobs/${submitted.jobId}`);
    return c.json(submittedJson(submitted), 201);
  });

  app.openapi(list, async (c) => {
    const query = c.req.valid("query");
    const before = query.cursor === undefined ? undefined : readCursor(query.cursor);
    // One more than asked for tells whether another page follows.
    const rows = await operations.listJobs({
      limit: query.limit + 1,
      ...(query.state && { state: query.state }),
      ...(query.pipeline && { pipeline: query.pipeline }),
      ...(query.user_id && { userId: query.user_id }),
      ...(query.channel_id && { channelId: query.channel_id }),
      ...(before && { before }),
    });
    const page = rows.slice(0, query.limit);
    const last = rows.length > query.limit ? page.at(-1) : undefined;
    const next_cursor = last ? cursorOf(last) : null;
    if (next_cursor !== null) {
      const url = new URL(c.req.url);
      url.searchParams.set("cursor", next_cursor);
      c.header("link", `<${url.pathname}${url.search}>; rel="next"`);
    }
    return c.json({ items: await itemsOf(page, operations), next_cursor }, 200);
  });

  app.openapi(view, async (c) => {
    const detail = await found(operations, c.req.valid("param").id);
    const outlook = await operations.readOutlook(detail);
    return c.json(jobJson(detail, new Date(), outlook), 200);
  });

  app.openapi(cancel, async (c) => {
    const body = checkBody(cancelSchema, (await readJson(c.env.incoming, maxJobBodyBytes)) ?? {});
    const { job } = await found(operations, c.req.valid("param").id);
    await operations.cancelJob(job.id, body.reason);
    return c.json(jobJson(await found(operations, job.id), new Date()), 202);
  });

  app.openapi(explain, async (c) => {
    const { job } = await found(operations, c.req.valid("param").id);
    return c.json(explanationJson(await operations.explainJob(job.id)), 200);
  });
  return app;
};

export const found = async (operations: Pick<HttpOperations, "readJobDetail">, id: string): Promise<JobDetail> => {
  const detail = await operations.readJobDetail(id);
  if (!detail)
    throw new RenderplaneError("job_not_found", `There is no job ${id}.`, {
      next: "GET /api/v1/jobs lists the jobs that exist.",
    });
  return detail;
};

/** Running jobs are read whole, because their progress stands in their stages; the others say everything in their row. */
const itemsOf = async (page: readonly JobRow[], operations: HttpOperations): Promise<JobItemJson[]> => {
  const now = new Date();
  const items: JobItemJson[] = [];
  for (let at = 0; at < page.length; at += detailsAtOnce) {
    const some = page.slice(at, at + detailsAtOnce);
    const read = (job: JobRow) => (job.state === "processing" ? operations.readJobDetail(job.id) : undefined);
    const details = await Promise.all(some.map(read));
    items.push(...some.map((job, i) => jobItemJson(job, details[i], now)));
  }
  return items;
};

/** Opaque to clients. */
const cursorOf = (job: JobRow): string =>
  Buffer.from(JSON.stringify([job.createdAt.getTime(), job.id])).toString("base64url");

/** Times from 1970 to the year 9999: beyond them JavaScript or PostgreSQL has no date. */
const cursorSchema = z.tuple([z.int().min(0).max(253_402_300_799_999), z.string().regex(/^v_[0-9A-Z]{26}$/)]);
const readCursor = (text: string): { createdAt: Date; id: string } => {
  try {
    const [at, id] = cursorSchema.parse(JSON.parse(Buffer.from(text, "base64url").toString("utf8")));
    return { createdAt: new Date(at), id };
  } catch (error) {
    throw new RenderplaneError(
      "invalid_request",
      "cursor is not one that this list gave out; leave it out for the first page.",
      {
        fields: [{ pointer: "/query/cursor", detail: "must be next_cursor of the page before" }],
        cause: error,
      },
    );
  }
};
