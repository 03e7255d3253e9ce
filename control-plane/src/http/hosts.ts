// /api/v1/hosts and /api/v1/enrollments: the fleet as it stands, and the token with which one more host joins it.
// What people do with hosts is host-acts.ts, mounted here. Invariant: a token is shown once, in this answer, and never logged.
import { createRoute, OpenAPIHono, z } from "@hono/zod-openapi";
import { maxJobBodyBytes } from "@renderplane/proto/kernel/limits.ts";
import { readJson } from "./body.ts";
import type { HttpEnv } from "./guards.ts";
import { type HostActOperations, hostActRoutes, hostParams } from "./host-acts.ts";
import { hostDetailJson, hostDetailSchema, hostJson, hostSchema, valveJson, valveSchema } from "./host-json.ts";
import type { HttpOperations } from "./operations.ts";
import { problems } from "./problem.ts";
import { checkBody, describeBody, refuseInvalid } from "./validation.ts";

/** Long enough to walk over to the machine, short enough that a forgotten token is worth nothing. */
const defaultTtlSeconds = 3_600;
const maxTtlSeconds = 7 * 24 * 3_600;

const list = createRoute({
  method: "get",
  path: "/api/v1/hosts",
  tags: ["hosts"],
  summary: "The hosts, what they have and what they do",
  responses: {
    200: {
      description: "All hosts that are not revoked, by name; and the pools whose work is held back",
      content: {
        "application/json": {
          schema: z
            .strictObject({ items: z.array(hostSchema), closed_valves: z.array(valveSchema) })
            .openapi("HostList"),
        },
      },
    },
    ...problems("unavailable"),
  },
});

const view = createRoute({
  method: "get",
  path: "/api/v1/hosts/{id}",
  tags: ["hosts"],
  summary: "A host with its sessions and certificates",
  request: { params: hostParams },
  responses: {
    200: { description: "The host", content: { "application/json": { schema: hostDetailSchema } } },
    ...problems("host_not_found", "unavailable"),
  },
});

const enrollmentSchema = z
  .strictObject({
    ttl_seconds: z.int().min(1).max(maxTtlSeconds).default(defaultTtlSeconds),
    max_uses: z.int().min(1).max(1_000).default(1),
  })
  .openapi("Enrollment");
const enrol = createRoute({
  hide: true,
  method: "post",
  path: "/api/v1/enrollments",
  tags: ["hosts"],
  summary: "A join token for new hosts",
  description: "The body is optional: {ttl_seconds, max_uses}.",
  responses: {
    201: {
      description: "The token, and the line to run on the new host",
      content: {
        "application/json": {
          schema: z
            .strictObject({ token: z.string(), expires_at: z.iso.datetime(), command: z.string() })
            .openapi("JoinToken"),
        },
      },
    },
    ...problems("malformed_body", "unsupported_media_type", "invalid_request", "unavailable"),
  },
});

export const hostRoutes = (
  operations: HostActOperations & Pick<HttpOperations, "listHosts" | "listClosedValves" | "issueJoinToken">,
  enrolAddress: () => string,
): OpenAPIHono<HttpEnv> => {
  const app = new OpenAPIHono<HttpEnv>({ defaultHook: refuseInvalid });
  describeBody(app, enrol, { "application/json": enrollmentSchema }, false);
  app.openapi(list, async (c) => {
    const [hosts, allocations, valves] = await Promise.all([
      operations.listHosts(),
      operations.liveAllocations(),
      operations.listClosedValves(),
    ]);
    const held = Map.groupBy(allocations, (a) => a.hostId);
    const items = hosts.map((host) => hostJson(host, held.get(host.id) ?? []));
    return c.json({ items, closed_valves: valves.map(valveJson) }, 200);
  });
  app.openapi(view, async (c) => {
    const { id } = c.req.valid("param");
    const [detail, allocations] = await Promise.all([operations.viewHost(id), operations.liveAllocations()]);
    return c.json(hostDetailJson(detail, allocations), 200);
  });
  app.route("/", hostActRoutes(operations));
  app.openapi(enrol, async (c) => {
    const body = checkBody(enrollmentSchema, (await readJson(c.env.incoming, maxJobBodyBytes)) ?? {});
    const { token, expiresAt } = await operations.issueJoinToken({
      ttlMs: body.ttl_seconds * 1000,
      maxUses: body.max_uses,
    });
    c.header("cache-control", "no-store");
    const command = `RENDERPLANE_ENROL_ADDRESS=${enrolAddress()} RENDERPLANE_JOIN_TOKEN=${token} npm run agent`;
    return c.json({ token, expires_at: expiresAt.toISOString(), command }, 201);
  });
  return app;
};
