// /api/v1/jobs/{id}/artifacts: the files of a job, its uploads and the outputs that count, listed and served with ranges.
// Which outputs count (the fence) is the store's to say. Invariant: a name leads only to files of that job.
import { createRoute, OpenAPIHono, z } from "@hono/zod-openapi";
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import type { FileRow, JobRow } from "../domain/records.ts";
import type { HttpEnv } from "./guards.ts";
import { artifactSchema } from "./job-schema.ts";
import { found, jobParams } from "./jobs.ts";
import type { HttpContext, HttpOperations } from "./operations.ts";
import { problems } from "./problem.ts";
import { serveArtifact } from "./ranges.ts";
import { refuseInvalid } from "./validation.ts";

/** The word in paths for the files that came with the job, whose stage is empty in the store. A stage of that name would hide behind it. */
const uploads = "uploads";

const list = createRoute({
  method: "get",
  path: "/api/v1/jobs/{id}/artifacts",
  tags: ["artifacts"],
  summary: "The files of a job",
  request: { params: jobParams },
  responses: {
    200: {
      description: "Uploads first, then outputs by stage",
      content: {
        "application/json": { schema: z.strictObject({ items: z.array(artifactSchema) }).openapi("ArtifactList") },
      },
    },
    ...problems("job_not_found", "unavailable"),
  },
});

const download = createRoute({
  method: "get",
  path: "/api/v1/jobs/{id}/artifacts/{stage}/{name}",
  tags: ["artifacts"],
  summary: "One file, whole or a range of it",
  request: { params: jobParams.extend({ stage: z.string(), name: z.string() }) },
  responses: {
    200: {
      description: "The whole file; ETag is its sha256",
      content: { "application/octet-stream": { schema: z.string() } },
    },
    206: {
      description: "The range that was asked for",
      content: { "application/octet-stream": { schema: z.string() } },
    },
    304: { description: "If-None-Match names this content" },
    ...problems("job_not_found", "artifact_not_found", "range_not_satisfiable", "unavailable"),
  },
});

export const jobArtifactRoutes = (
  ctx: Pick<HttpContext, "artifacts">,
  operations: Pick<HttpOperations, "readJobDetail" | "listFiles">,
): OpenAPIHono<HttpEnv> => {
  const app = new OpenAPIHono<HttpEnv>({ defaultHook: refuseInvalid });
  app.openapi(list, async (c) => {
    const { job } = await found(operations, c.req.valid("param").id);
    const files = await operations.listFiles(job.id);
    return c.json({ items: files.map((file) => artifactJson(file, job)) }, 200);
  });
  app.openapi(download, async (c) => {
    const { id, stage, name } = c.req.valid("param");
    const { job } = await found(operations, id);
    const files = await operations.listFiles(job.id);
    const file = files.find((f) => f.name === name && stageOf(f) === stage);
    if (!file)
      throw new RenderplaneError("artifact_not_found", `The job ${job.id} has no file ${name} of ${stage}.`, {
        next: `GET /api/v1/jobs/${job.id}/artifacts lists what it has; outputs appear when their stage has succeeded.`,
      });
    const fileName = originalName(file, job);
    return serveArtifact(c, ctx.artifacts, { sha256: file.sha256, mediaType: file.mediaType, fileName });
  });
  return app;
};

const artifactJson = (file: FileRow, job: JobRow): z.infer<typeof artifactSchema> => ({
  stage: stageOf(file),
  name: file.name,
  original_name: originalName(file, job),
  sha256: file.sha256,
  size_bytes: Number(file.sizeBytes),
  media_type: file.mediaType,
  url: `/api/v1/jobs/${job.id}/artifacts/${stageOf(file)}/${encodeURIComponent(file.name)}`,
});

const stageOf = (file: FileRow): string => (file.stage === "" ? uploads : file.stage);

const originalName = (file: FileRow, job: JobRow): string => {
  const names = job.request.media_names;
  if (file.stage !== "" || names === null || typeof names !== "object" || Array.isArray(names)) return file.name;
  const original = (names as Readonly<Record<string, unknown>>)[file.name];
  return typeof original === "string" ? original : file.name;
};
