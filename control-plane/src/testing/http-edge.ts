// A real HTTP edge for tests, on top of the test engine: a socket on 127.0.0.1, a real database, a folder of artifacts, the
// memory bus and the real operations, of which a test may replace some. Only tests import this. close() leaves nothing behind.
import { randomBytes } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createAddressSigner } from "../artifacts/address-signer.ts";
import { openArtifactFolder } from "../artifacts/folder.ts";
import { bindHttpOperations } from "../http/bind.ts";
import { createHttpEdge, type HttpEdge, type HttpEdgeOptions } from "../http/edge.ts";
import type { HttpOperations } from "../http/operations.ts";
import { createMetrics } from "../metrics/registry.ts";
import type { Context } from "../operations/context.ts";
import { relayEvents } from "../operations/relay-events.ts";
import { type Engine, openEngine } from "./engine.ts";

export type TestEdge = {
  readonly ctx: Context;
  /** Plays hosts: places, accepts and finishes. */
  readonly engine: Engine;
  readonly edge: HttpEdge;
  readonly url: string;
  /** The folder of artifacts. */
  readonly folder: string;
  /** Publishes what the operations wrote, as the relay does, and feeds the metrics. */
  relay(): Promise<void>;
  post(path: string, body: unknown, headers?: Record<string, string>): Promise<Response>;
  get(path: string, headers?: Record<string, string>): Promise<Response>;
  /** Submits a small job over HTTP and answers its id. */
  submit(change?: Record<string, unknown>): Promise<string>;
  close(): Promise<void>;
};

export const sampleJob = { user_id: "u1", channel_id: "c1", request: { script: "One sentence." } };

export const openTestEdge = async (
  change: {
    readonly operations?: Partial<HttpOperations>;
    readonly options?: Partial<HttpEdgeOptions>;
    readonly settings?: Partial<Context["settings"]>;
  } = {},
): Promise<TestEdge> => {
  const engine = await openEngine({ ...(change.settings && { settings: change.settings }) });
  const folder = await mkdtemp(join(tmpdir(), "renderplane-http-"));
  let edge: HttpEdge | undefined;
  // The engine's own context gets them too: what a played host puts is what the edge serves.
  const ctx: Context = Object.assign(engine.ctx, {
    artifacts: await openArtifactFolder(folder),
    signer: createAddressSigner({ baseUrl: () => edge?.url() ?? "", secret: randomBytes(32) }),
  });
  const operations = { ...bindHttpOperations(ctx), ...change.operations };
  const stages = [...new Set([...ctx.pipelines.values()].flatMap((p) => p.stages.map((s) => s.name)))];
  const metrics = createMetrics({ version: "1.2.3", stages, levels: operations });
  const created = createHttpEdge(ctx, {
    listen: "127.0.0.1:0",
    version: "1.2.3",
    operations,
    metrics,
    isReady: async () => ({ ok: true, checks: { database: "ok" } }),
    ...change.options,
  });
  edge = created;
  const close = async () => {
    await created.stop();
    await engine.close();
    await rm(folder, { recursive: true, force: true });
  };
  try {
    await created.start();
  } catch (error) {
    await close();
    throw error;
  }
  const url = created.url();
  const post: TestEdge["post"] = (path, body, headers = {}) =>
    fetch(url + path, {
      method: "POST",
      headers: { "content-type": "application/json", ...headers },
      body: typeof body === "string" ? body : JSON.stringify(body),
    });
  return {
    ctx,
    engine,
    edge: created,
    url,
    folder,
    relay: async () => metrics.observeEvents(await relayEvents(ctx)),
    post,
    get: (path, headers = {}) => fetch(url + path, { headers }),
    submit: async (fields = {}) => {
      const answer = await post("/api/v1/jobs", { ...sampleJob, ...fields });
      const { id } = (await answer.json()) as { id: string };
      return id;
    },
    close,
  };
};

/** Polls until `read` gives something, for ten seconds. */
export const eventually = async <T>(read: () => T | undefined | false | Promise<T | undefined | false>): Promise<T> => {
  const until = performance.now() + 10_000;
  for (;;) {
    const value = await read();
    if (value !== undefined && value !== false) return value;
    if (performance.now() > until) throw new Error("it did not happen in 10 s");
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
};
