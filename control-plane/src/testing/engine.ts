// A whole engine for a test, without edges: real database, memory bus, folder of artifacts. A test plays the host by calling
// the operations that a session would call.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { defaultTimings, type Timings } from "@renderplane/proto/kernel/limits.ts";
import { silentLogger } from "@renderplane/proto/kernel/process/logger.ts";
import { createAddressSigner } from "../artifacts/address-signer.ts";
import { openArtifactFolder } from "../artifacts/folder.ts";
import { createMemoryBus } from "../bus/memory.ts";
import { type Pipeline, parsePipeline } from "../domain/pipeline.ts";
import type { InventoryRecord, JobDetail, JsonObject } from "../domain/records.ts";
import { openAuthority } from "../identity/authority.ts";
import { loadPipelines, loadPrices } from "../load-data.ts";
import { createIds } from "../new-id.ts";
import { acceptOffer } from "../operations/accept-offer.ts";
import type { Context } from "../operations/context.ts";
import { type Finish, finishAttempt } from "../operations/finish-attempt.ts";
import { openSession } from "../operations/open-session.ts";
import { placeStages } from "../operations/place-stages.ts";
import { parseSubmission, submitJob } from "../operations/submit-job.ts";
import { type OfferRecord, takeOffers } from "../operations/take-offers.ts";
import { readJobDetail } from "../store/job-detail.ts";
import { openTestDatabase } from "../store/testing.ts";

/** Two short stages, the second needs the first; one retry after 10 ms. */
export const pairPipeline: Pipeline = parsePipeline(
  {
    name: "pair",
    version: 1,
    title: "Pair",
    estimate: { simple: 1, complex: 1, premium: 1 },
    target: { seconds: 600, cost: 2.5 },
    request: { type: "object" },
    stages: ["first", "second"].map((name, i) => ({
      name,
      kind: "noop",
      needs: i === 0 ? [] : ["first"],
      timeout: "60s",
      retries: 1,
      backoff: "10ms",
      estimated_cost: 0.5,
      resources: { cores: 1, memory: "64MiB", scratch: "1MiB" },
    })),
  },
  "pair",
);

export const inventory: InventoryRecord = {
  hostname: "test",
  os: "linux",
  arch: "x64",
  cpuModel: "test",
  cores: 4,
  memoryBytes: 8 * 1024 ** 3,
  scratchBytes: 100 * 1024 ** 3,
  gpus: [],
  ffmpegVersion: "5.1",
  workingEncoders: ["libx264", "aac"],
  stageKinds: ["noop", "script", "speech", "media", "render", "validate", "package"],
  providers: [],
};

export type Engine = {
  readonly ctx: Context;
  submit(body?: JsonObject, key?: string): Promise<string>;
  /** Enrols a host by row and opens its session. */
  host(name: string, change?: Partial<InventoryRecord>): Promise<{ hostId: string; epoch: bigint }>;
  reopen(hostId: string, attempts?: Parameters<typeof openSession>[1]["attempts"]): ReturnType<typeof openSession>;
  /** Places what is ready and takes the offers of a host. */
  offers(h: { hostId: string; epoch: bigint }): Promise<readonly OfferRecord[]>;
  accept(h: { hostId: string; epoch: bigint }, offer: OfferRecord): Promise<boolean>;
  finish(hostId: string, offer: { attemptId: string; fence: bigint }, change?: Partial<Finish>): Promise<boolean>;
  detail(jobId: string): Promise<JobDetail>;
  sql<R = Record<string, unknown>>(text: string, params?: readonly unknown[]): Promise<R[]>;
  close(): Promise<void>;
};

export const openEngine = async (
  options: { readonly timings?: Partial<Timings>; readonly settings?: Partial<Context["settings"]> } = {},
): Promise<Engine> => {
  const database = await openTestDatabase();
  const dir = await mkdtemp(join(tmpdir(), "renderplane-engine-"));
  const bus = createMemoryBus();
  await bus.start();
  const ctx: Context = {
    db: database.db,
    bus,
    pipelines: new Map([...(await loadPipelines(undefined)), ["pair", pairPipeline]]),
    prices: await loadPrices(undefined),
    timings: { ...defaultTimings, ...options.timings },
    artifacts: await openArtifactFolder(join(dir, "artifacts")),
    signer: createAddressSigner({ baseUrl: () => "http://127.0.0.1:1", secret: Buffer.alloc(32) }),
    authority: (await openAuthority(undefined)).authority,
    replica: "main",
    log: silentLogger(),
    newId: createIds(),
    settings: {
      queueDepth: 100,
      costLimits: { warning: 2_500_000n, critical: 2_800_000n, halt: 3_000_000n },
      concurrency: { jobs: 10_000, jobsPerUser: 10_000, attemptsPerProvider: new Map() },
      ...options.settings,
    },
  };
  const sessionOf = (
    hostId: string,
    attempts: Parameters<typeof openSession>[1]["attempts"] = [],
    change: Partial<InventoryRecord> = {},
  ) =>
    openSession(ctx, {
      hostId,
      serial: `serial-${hostId}`,
      instanceId: "i",
      agentVersion: "1",
      protocolMin: 1,
      protocolMax: 1,
      inventory: { ...inventory, ...change },
      attempts,
    });
  return {
    ctx,
    submit: async (body = {}, key) => {
      const parsed = parseSubmission({ pipeline: "pair", ...body }, ctx.pipelines);
      return (await submitJob(ctx, { ...parsed, uploads: [], ...(key === undefined ? {} : { idempotencyKey: key }) }))
        .jobId;
    },
    host: async (name, change = {}) => {
      const hostId = `h_${name.toUpperCase().padEnd(26, "0").slice(0, 26)}`;
      await ctx.db.direct.query(`insert into hosts (id, name, inventory) values ($1, $2, '{}')`, [hostId, name]);
      await ctx.db.direct.query(
        `insert into certificates (serial, host_id, public_key_sha256, pem, expires_at) values ($1, $2, '', '', clock_timestamp() + interval '1 day')`,
        [`serial-${hostId}`, hostId],
      );
      const { epoch } = await sessionOf(hostId, [], change);
      return { hostId, epoch };
    },
    reopen: (hostId, attempts) => sessionOf(hostId, attempts),
    offers: async (h) => {
      await placeStages(ctx);
      return takeOffers(ctx, h);
    },
    accept: (h, offer) => acceptOffer(ctx, { ...h, attemptId: offer.attemptId, fence: offer.fence }),
    finish: async (hostId, offer, change = {}) =>
      (
        await finishAttempt(ctx, {
          attemptId: offer.attemptId,
          fence: offer.fence,
          hostId,
          outcome: "succeeded",
          result: { ok: true },
          outputs: [],
          failure: null,
          usage: [],
          ...change,
        })
      ).applied,
    detail: async (jobId) => (await readJobDetail(ctx.db.direct, jobId)) as JobDetail,
    sql: async (text, params = []) => (await ctx.db.direct.query(text, params)).rows as never,
    close: async () => {
      await bus.stop();
      await database.close();
      await rm(dir, { recursive: true, force: true });
    },
  };
};
