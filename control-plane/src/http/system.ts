// What is about the control plane itself: the index, its pipelines, health, readiness, metrics and the API's own document.
// Whether it is ready is asked of the composition root. Invariant: /healthz needs nothing but this process.
import { createRoute, OpenAPIHono, z } from "@hono/zod-openapi";
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { dollarsFromMicros } from "@renderplane/proto/kernel/units.ts";
import type { Pipeline } from "../domain/pipeline.ts";
import type { Metrics } from "../metrics/registry.ts";
import type { HttpEnv } from "./guards.ts";
import { jsonObject } from "./job-schema.ts";
import { problems } from "./problem.ts";
import { refuseInvalid } from "./validation.ts";

export const apiTitle = "Renderplane API";

export type Readiness = {
  readonly ok: boolean;
  /** By part: "ok", or what is wrong with it in a few words. */
  readonly checks: { readonly [part: string]: string };
};

const stageSchema = z.strictObject({
  name: z.string(),
  kind: z.string(),
  needs: z.array(z.string()),
  timeout_seconds: z.number(),
  retries: z.int(),
  estimated_cost: z.number(),
});
const pipelineSchema = z
  .strictObject({
    name: z.string(),
    version: z.int(),
    title: z.string(),
    estimated_cost: z.strictObject({ simple: z.number(), complex: z.number(), premium: z.number() }),
    uploads: z.strictObject({ min: z.int(), max: z.int(), media: z.array(z.string()) }),
    request: jsonObject.openapi({ description: "JSON Schema of `request`." }),
    stages: z.array(stageSchema),
  })
  .openapi("Pipeline");

const json = (description: string, schema: z.ZodType) => ({ description, content: { "application/json": { schema } } });
const healthSchema = z.strictObject({ status: z.literal("ok"), version: z.string() }).openapi("Health");
const readySchema = z
  .strictObject({ status: z.literal("ready"), checks: z.record(z.string(), z.string()) })
  .openapi("Ready");

const index = createRoute({
  method: "get",
  path: "/",
  tags: ["system"],
  summary: "Where things are",
  responses: {
    200: json(
      "The index",
      z.strictObject({ name: z.string(), version: z.string(), links: z.record(z.string(), z.string()) }),
    ),
  },
});
const pipelines = createRoute({
  method: "get",
  path: "/api/v1/pipelines",
  tags: ["jobs"],
  summary: "The pipelines and what their requests may say",
  responses: { 200: json("By name", z.strictObject({ items: z.array(pipelineSchema) }).openapi("PipelineList")) },
});
const healthz = createRoute({
  method: "get",
  path: "/healthz",
  tags: ["system"],
  summary: "Whether this process lives",
  responses: { 200: json("It does", healthSchema) },
});
const readyz = createRoute({
  method: "get",
  path: "/readyz",
  tags: ["system"],
  summary: "Whether this process can serve",
  responses: { 200: json("It can", readySchema), ...problems("unavailable") },
});
const metricsRoute = createRoute({
  method: "get",
  path: "/metrics",
  tags: ["system"],
  summary: "Metrics in the Prometheus text format",
  responses: { 200: { description: "The metrics", content: { "text/plain": { schema: z.string() } } } },
});

export const systemRoutes = (options: {
  readonly version: string;
  readonly pipelines: ReadonlyMap<string, Pipeline>;
  readonly metrics: Metrics;
  readonly isReady: () => Promise<Readiness>;
}): OpenAPIHono<HttpEnv> => {
  const app = new OpenAPIHono<HttpEnv>({ defaultHook: refuseInvalid });
  app.openapi(index, (c) =>
    c.json(
      {
        name: "renderplane",
        version: options.version,
        links: {
          api: "/api/v1/openapi.json",
          jobs: "/api/v1/jobs",
          queue: "/api/v1/queue",
          estimates: "/api/v1/estimates",
          hosts: "/api/v1/hosts",
          pipelines: "/api/v1/pipelines",
          events: "/api/v1/events",
          metrics: "/metrics",
          health: "/healthz",
          ready: "/readyz",
        },
      },
      200,
    ),
  );
  app.openapi(pipelines, (c) => {
    const sorted = [...options.pipelines.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
    return c.json({ items: sorted.map(pipelineJson) }, 200);
  });
  app.openapi(healthz, (c) => c.json({ status: "ok", version: options.version }, 200));
  app.openapi(readyz, async (c) => {
    const { ok, checks } = await options.isReady();
    if (ok) return c.json({ status: "ready", checks }, 200);
    const bad = Object.entries(checks).filter(([, state]) => state !== "ok");
    throw new RenderplaneError(
      "unavailable",
      `Not ready: ${bad.map(([part, state]) => `${part}: ${state}`).join("; ")}.`,
      { fields: bad.map(([part, state]) => ({ pointer: `/checks/${part}`, detail: state })) },
    );
  });
  app.openapi(metricsRoute, async (c) =>
    c.text(await options.metrics.text(), 200, {
      "content-type": options.metrics.contentType,
      "cache-control": "no-store",
    }),
  );
  return app;
};

const pipelineJson = (pipeline: Pipeline): z.infer<typeof pipelineSchema> => ({
  name: pipeline.name,
  version: pipeline.version,
  title: pipeline.title,
  estimated_cost: {
    simple: dollarsFromMicros(pipeline.estimate.simple),
    complex: dollarsFromMicros(pipeline.estimate.complex),
    premium: dollarsFromMicros(pipeline.estimate.premium),
  },
  uploads: pipeline.uploads,
  request: pipeline.request,
  stages: pipeline.stages.map((stage) => ({
    name: stage.name,
    kind: stage.kind,
    needs: stage.needs,
    timeout_seconds: stage.timeout / 1000,
    retries: stage.retries,
    estimated_cost: dollarsFromMicros(stage.estimated_cost),
  })),
});
