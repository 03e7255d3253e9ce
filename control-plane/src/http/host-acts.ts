// What people do with hosts: /api/v1/hosts/{id}/cordon and so on, removal, pools and their valves. It reads the body, calls one
// operation and answers the host as it stands now; what is allowed when is the operations' (domain/intent.ts).
// Invariant: every act carries who and why, and both end up in the event log.

import type { IncomingMessage } from "node:http";
import { createRoute, OpenAPIHono, z } from "@hono/zod-openapi";
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { maxJobBodyBytes, tagPattern } from "@renderplane/proto/kernel/limits.ts";
import { type IntentAct, intentActs } from "../domain/intent.ts";
import { readJson } from "./body.ts";
import type { HttpEnv } from "./guards.ts";
import { hostDetailJson, hostDetailSchema } from "./host-json.ts";
import type { HttpOperations } from "./operations.ts";
import { problems } from "./problem.ts";
import { checkBody, describeBody, refuseInvalid } from "./validation.ts";

/** A drain that takes longer is a host that somebody forgot. */
const maxDrainSeconds = 7 * 24 * 3_600;

export const hostParams = z.object({
  id: z.string().min(1).max(100).openapi({ description: "The id of a host, or its name." }),
});
const why = {
  reason: z.string().min(1).max(500).default("no reason given"),
  by: z.string().min(1).max(200).default("the HTTP interface").openapi({ description: "Who asks, in words." }),
};
const actSchema = z.strictObject(why).openapi("HostAct");
const drainSchema = z
  .strictObject({
    ...why,
    policy: z.enum(["finish", "give_back"]).optional().openapi({
      description: "What happens to work that runs. Default: give_back when within_seconds is given, otherwise finish.",
    }),
    within_seconds: z.int().min(0).max(maxDrainSeconds).optional().openapi({
      description: "give_back only: how long work may go on before it returns to the queue; 0 or absent: at once.",
    }),
  })
  .openapi("HostDrain");
const revokeSchema = z
  .strictObject({
    ...why,
    serial: z.string().min(1).max(100).optional().openapi({ description: "Only this certificate, not the host." }),
  })
  .openapi("HostRevoke");
const poolSchema = z.strictObject({ ...why, pool: z.string().regex(tagPattern) }).openapi("HostPool");

type Described = { readonly summary: string; readonly description?: string };
const described: { readonly [A in IntentAct]: Described } = {
  cordon: { summary: "No new work for a host; what runs goes on" },
  uncordon: { summary: "A host takes work again" },
  drain: {
    summary: "No new work, and in the end none at all",
    description: "The event host.drained says when nothing is held any more. Work that is given back costs no try.",
  },
  maintenance: { summary: "A host is worked on: no new work, and its silence does not count with its pool" },
  quarantine: { summary: "A host is not trusted; only a release ends it" },
  release: { summary: "Ends a quarantine" },
  revoke: {
    summary: "A host, or one of its certificates, is not accepted any more",
    description: "Open streams end within five seconds. A host cannot come back from it; remove it and enrol it again.",
  },
};

const schemaOf = (act: IntentAct) => (act === "drain" ? drainSchema : act === "revoke" ? revokeSchema : actSchema);

const actRoute = (act: string, about: Described) =>
  createRoute({
    hide: true,
    method: "post",
    path: `/api/v1/hosts/{id}/${act}` as const,
    tags: ["hosts"],
    ...about,
    request: { params: hostParams },
    responses: {
      200: { description: "The host as it stands now", content: { "application/json": { schema: hostDetailSchema } } },
      ...problems("malformed_body", "invalid_request", "host_not_found", "not_found", "host_conflict", "unavailable"),
    },
  });

const remove = createRoute({
  method: "delete",
  path: "/api/v1/hosts/{id}",
  tags: ["hosts"],
  summary: "Remove a host that is offline and holds nothing; its name is free again",
  request: { params: hostParams, query: z.object(why) },
  responses: {
    204: { description: "It is gone" },
    ...problems("invalid_request", "host_not_found", "host_conflict", "unavailable"),
  },
});

const valve = createRoute({
  hide: true,
  method: "post",
  path: "/api/v1/pools/{pool}/open-valve",
  tags: ["hosts"],
  summary: "Give the work of a pool away although many of its hosts fell silent at once",
  request: { params: z.object({ pool: z.string().regex(tagPattern) }) },
  responses: {
    200: {
      description: "opened is false when the valve was open",
      content: {
        "application/json": { schema: z.strictObject({ pool: z.string(), opened: z.boolean() }).openapi("Valve") },
      },
    },
    ...problems("malformed_body", "invalid_request", "not_found", "unavailable"),
  },
});

export type HostActOperations = Pick<
  HttpOperations,
  "setIntent" | "revokeCertificate" | "removeHost" | "setPool" | "openValve" | "viewHost" | "liveAllocations"
>;

export const hostActRoutes = (operations: HostActOperations): OpenAPIHono<HttpEnv> => {
  const app = new OpenAPIHono<HttpEnv>({ defaultHook: refuseInvalid });
  const stands = async (id: string) => {
    const [detail, allocations] = await Promise.all([operations.viewHost(id), operations.liveAllocations()]);
    return hostDetailJson(detail, allocations);
  };

  for (const act of Object.keys(intentActs) as IntentAct[]) {
    const route = actRoute(act, described[act]);
    describeBody(app, route, { "application/json": schemaOf(act) }, false);
    app.openapi(route, async (c) => {
      const host = c.req.valid("param").id;
      await perform(operations, host, act, await bodyOf(c.env.incoming));
      return c.json(await stands(host), 200);
    });
  }

  const pool = actRoute("pool", { summary: "Put a host into another pool" });
  describeBody(app, pool, { "application/json": poolSchema });
  app.openapi(pool, async (c) => {
    const { id } = c.req.valid("param");
    await operations.setPool({ host: id, ...checkBody(poolSchema, await bodyOf(c.env.incoming)) });
    return c.json(await stands(id), 200);
  });

  app.openapi(remove, async (c) => {
    await operations.removeHost({ host: c.req.valid("param").id, ...c.req.valid("query") });
    return c.body(null, 204);
  });

  describeBody(app, valve, { "application/json": actSchema }, false);
  app.openapi(valve, async (c) => {
    const { pool } = c.req.valid("param");
    const body = checkBody(actSchema, await bodyOf(c.env.incoming));
    return c.json({ pool, opened: await operations.openValve({ pool, ...body }) }, 200);
  });
  return app;
};

/** Every field has a default, so no body is an empty one. */
const bodyOf = async (incoming: IncomingMessage): Promise<unknown> => (await readJson(incoming, maxJobBodyBytes)) ?? {};

const perform = async (operations: HostActOperations, host: string, act: IntentAct, body: unknown): Promise<void> => {
  if (act === "revoke") {
    const { serial, ...r } = checkBody(revokeSchema, body);
    if (serial === undefined) await operations.setIntent({ host, act, ...r });
    else await operations.revokeCertificate({ host, serial, ...r });
  } else if (act === "drain") {
    const { policy, within_seconds: within, ...r } = checkBody(drainSchema, body);
    if (policy === "finish" && within !== undefined) {
      const detail = "within_seconds goes with policy give_back; with finish, work has all the time it needs";
      throw new RenderplaneError("invalid_request", `${detail}.`, {
        fields: [{ pointer: "/within_seconds", detail }],
      });
    }
    const givesBack = policy === "give_back" || within !== undefined;
    await operations.setIntent({ host, act, ...r, ...(givesBack && { giveBackAfterMs: (within ?? 0) * 1000 }) });
  } else await operations.setIntent({ host, act, ...checkBody(actSchema, body) });
};
