// The whole HTTP interface as one application: guards first, then the groups of routes, then one form of error for all.
// It listens nowhere; edge.ts gives it a socket. Invariant: every answer that is not a success is a problem.
import { OpenAPIHono } from "@hono/zod-openapi";
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import type { Hono } from "hono";
import { matchedRoutes } from "hono/route";
import type { Metrics } from "../metrics/registry.ts";
import { artifactRoutes } from "./artifacts.ts";
import type { EventFeed } from "./event-feed.ts";
import { eventRoutes } from "./events.ts";
import { checkAddress, checkHost, checkOrigin, type HttpEnv, harden, identify } from "./guards.ts";
import { hostRoutes } from "./hosts.ts";
import { jobArtifactRoutes } from "./job-artifacts.ts";
import { jobRoutes } from "./jobs.ts";
import { legacyRoutes } from "./legacy.ts";
import type { LiveStreams } from "./live-streams.ts";
import type { HttpContext, HttpOperations } from "./operations.ts";
import { problemResponse } from "./problem.ts";
import { queueRoutes } from "./queue.ts";
import { apiTitle, type Readiness, systemRoutes } from "./system.ts";

export type AppOptions = {
  readonly version: string;
  readonly publicUrl: string | undefined;
  /** Undefined: any Host header is answered. */
  readonly hosts: ReadonlySet<string> | undefined;
  readonly operations: HttpOperations;
  readonly metrics: Metrics;
  readonly isReady: () => Promise<Readiness>;
  readonly enrolAddress: () => string;
  readonly feed: EventFeed;
  readonly streams: LiveStreams;
};

export const createApp = (ctx: HttpContext, options: AppOptions): OpenAPIHono<HttpEnv> => {
  const app = new OpenAPIHono<HttpEnv>();
  const { operations, feed, streams } = options;

  app.use(identify());
  app.use(async (c, next) => {
    const started = performance.now();
    await next();
    const seconds = (performance.now() - started) / 1000;
    const endpoint = matchedRoutes(c).findLast((route) => route.path !== "/*")?.path ?? "unmatched";
    options.metrics.observeRequest({ endpoint, method: c.req.method, status: c.res.status, seconds });
  });
  app.use(harden());
  app.use(checkHost(options.hosts));
  app.use(checkOrigin(options.publicUrl));
  app.use(checkAddress());

  // Mounted without keeping their types: one long chain of typed routes takes the type checker minutes.
  const groups: readonly Hono<HttpEnv>[] = [
    systemRoutes({ ...options, pipelines: ctx.pipelines }),
    jobRoutes(ctx, operations),
    queueRoutes(operations),
    jobArtifactRoutes(ctx, operations),
    hostRoutes(operations, options.enrolAddress),
    eventRoutes(operations, feed, streams),
    legacyRoutes(ctx, operations, feed, streams),
    artifactRoutes(ctx),
  ];
  for (const group of groups) app.route("/", group);

  app.get("/api/v1/openapi.json", (c) => c.json(openApiDocument(app, options.version)));

  app.onError((error, c) => {
    const traceId = c.get("traceId") ?? "";
    const isOurs = error instanceof RenderplaneError;
    const about = { traceId, requestId: c.get("requestId"), method: c.req.method, path: c.req.path };
    if (!isOurs || error.code === "internal") ctx.log.error({ ...about, err: error }, "request failed");
    else ctx.log.debug({ ...about, code: error.code, reason: error.message }, "request refused");
    return problemResponse(error, { path: c.req.path, traceId });
  });
  app.notFound((c) => {
    const where = { path: c.req.path, traceId: c.get("traceId") };
    const allow = methodsOf(app, c.req.path);
    if (allow.length === 0)
      return problemResponse(
        new RenderplaneError("not_found", `There is nothing at ${c.req.path}.`, {
          next: "GET /api/v1/openapi.json lists the addresses.",
        }),
        where,
      );
    const refused = new RenderplaneError(
      "method_not_allowed",
      `${c.req.path} takes ${allow.join(", ")}, not ${c.req.method}.`,
    );
    return problemResponse(refused, { ...where, allow });
  });
  return app;
};

export const openApiDocument = (app: OpenAPIHono<HttpEnv>, version: string) =>
  app.getOpenAPI31Document({
    openapi: "3.1.0",
    info: {
      title: apiTitle,
      version,
      description:
        "Jobs, hosts and events of a render fleet. Errors are RFC 9457 problems; times are RFC 3339 in UTC; money is US dollars.",
    },
  });

/** The methods that some route has for this path; empty when the path is unknown. */
const methodsOf = (app: Hono<HttpEnv>, path: string): string[] => {
  const fits = app.routes.filter((route) => route.method !== "ALL" && patternOf(route.path).test(path));
  const methods = new Set(fits.map((route) => route.method));
  if (methods.has("GET")) methods.add("HEAD");
  return [...methods].sort();
};
const patternOf = (template: string): RegExp =>
  new RegExp(`^${template.replace(/[.*+?^${}()|[\]\\]/g, "\\$&").replace(/:[A-Za-z0-9_]+/g, "[^/]+")}$`);
