// A real HTTP edge for tests: a socket on 127.0.0.1, a real database, a folder of artifacts, the memory bus and the real
// operations, of which a test may replace some. Only tests import this. close() leaves nothing behind.
import { randomBytes } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { defaultTimings } from "@renderplane/proto/kernel/limits.ts";
import { silentLogger } from "@renderplane/proto/kernel/process/logger.ts";
import { createAddressSigner } from "../artifacts/address-signer.ts";
import { openArtifactFolder } from "../artifacts/folder.ts";
import { createMemoryBus } from "../bus/memory.ts";
import { openAuthority } from "../identity/authority.ts";
import { loadPipelines, loadPrices } from "../load-data.ts";
import { createMetrics, type Metrics } from "../metrics/registry.ts";
import type { Context } from "../operations/context.ts";
import { relayEvents } from "../operations/relay-events.ts";
import { openTestDatabase } from "../store/testing.ts";
import { bindHttpOperations } from "./bind.ts";
import { createHttpEdge, type HttpEdge, type HttpEdgeOptions } from "./edge.ts";
import type { HttpOperations } from "./operations.ts";

export type TestEdge = {
  readonly ctx: Context;
  readonly edge: HttpEdge;
  readonly metrics: Metrics;
  readonly url: string;
  /** Publishes what the operations wrote, as the relay does, and feeds the metrics. */
  relay(): Promise<void>;
  post(path: string, body: unknown, headers?: Record<string, string>): Promise<Response>;
  get(path: string, headers?: Record<string, string>): Promise<Response>;
  /** Submits a small job and answers its id. */
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
  const database = await openTestDatabase();
  const dir = await mkdtemp(join(tmpdir(), "renderplane-http-"));
  const pipelines = await loadPipelines(undefined);
  let edge: HttpEdge | undefined;
  const ctx: Context = {
    db: database.db,
    bus: createMemoryBus(),
    pipelines,
    prices: await loadPrices(undefined),
    timings: defaultTimings,
    artifacts: await openArtifactFolder(join(dir, "artifacts")),
    signer: createAddressSigner({ baseUrl: () => edge?.url() ?? "", secret: randomBytes(32) }),
    authority: (await openAuthority(undefined)).authority,
    replica: "test",
    log: silentLogger(),
    settings: {
      queueDepth: 100,
      costLimits: { warning: 2_500_000n, critical: 2_800_000n, halt: 3_000_000n },
      ...change.settings,
    },
  };
  const operations = { ...bindHttpOperations(ctx), ...change.operations };
  const stages = [...new Set([...pipelines.values()].flatMap((p) => p.stages.map((s) => s.name)))];
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
  await ctx.bus.start();
  await created.start();
  const url = created.url();
  const post: TestEdge["post"] = (path, body, headers = {}) =>
    fetch(url + path, {
      method: "POST",
      headers: { "content-type": "application/json", ...headers },
      body: typeof body === "string" ? body : JSON.stringify(body),
    });
  return {
    ctx,
    edge: created,
    metrics,
    url,
    relay: async () => metrics.observeEvents(await relayEvents(ctx)),
    post,
    get: (path, headers = {}) => fetch(url + path, { headers }),
    submit: async (fields = {}) => {
      const answer = await post("/api/v1/jobs", { ...sampleJob, ...fields });
      const { id } = (await answer.json()) as { id: string };
      return id;
    },
    close: async () => {
      await created.stop();
      await ctx.bus.stop();
      await database.close();
      await rm(dir, { recursive: true, force: true });
    },
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
