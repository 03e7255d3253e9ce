// The composition root: the only place that knows the embedded database from an outside one and memory from Redis.
// Starts in order (database, bus, edges, loops) and stops in reverse: not ready, loops, streams, bus, database.
import { randomBytes } from "node:crypto";
import { mkdir } from "node:fs/promises";
import { join, resolve } from "node:path";
import { type Timings, timingsOf } from "@renderplane/proto/kernel/limits.ts";
import { type Lifetime, stopAll } from "@renderplane/proto/kernel/process/lifecycle.ts";
import type { Logger } from "@renderplane/proto/kernel/process/logger.ts";
import { ulid } from "ulid";
import packageJson from "../package.json" with { type: "json" };
import { createAddressSigner } from "./artifacts/address-signer.ts";
import { openArtifactFolder } from "./artifacts/folder.ts";
import { createMemoryBus } from "./bus/memory.ts";
import { createRedisBus } from "./bus/redis.ts";
import type { Config } from "./config.ts";
import { createGrpcEdge, type GrpcEdge } from "./grpc/agent-server.ts";
import { bindGrpcOperations } from "./grpc/bind.ts";
import { bindHttpOperations } from "./http/bind.ts";
import { createHttpEdge, type HttpEdge } from "./http/edge.ts";
import { openAuthority } from "./identity/authority.ts";
import { loadPipelines, loadPrices } from "./load-data.ts";
import { createPlacer } from "./loops/placer.ts";
import { createReaper } from "./loops/reaper.ts";
import { createRelay } from "./loops/relay.ts";
import { createWaker } from "./loops/waker.ts";
import { createMetrics } from "./metrics/registry.ts";
import type { Context } from "./operations/context.ts";
import { progressPublisher } from "./operations/publish-progress.ts";
import { resumeReplica } from "./operations/reap-leases.ts";
import { createEmbedded } from "./store/embedded.ts";
import { installationValue } from "./store/installation.ts";
import { migrate } from "./store/migrate.ts";
import { connectPostgres } from "./store/postgres.ts";

export type ControlPlane = Lifetime & { readonly http: HttpEdge; readonly grpc: GrpcEdge; readonly context: Context };

/** Loops and streams that take longer than this to stop are left behind; the next start recovers what they held. */
const stopDeadlineMs = 15_000;
/** Enough for the loops, the edges and a burst of submissions on one replica. */
const poolMax = 20;

/** Everything is started when this resolves; a part that cannot start stops the others and throws its own words. */
export const startControlPlane = async (
  config: Config,
  log: Logger,
  timings: Timings = timingsOf(config.heartbeatMs),
): Promise<ControlPlane> => {
  const started: Lifetime[] = [];
  const start = async (part: Lifetime) => {
    await part.start();
    started.push(part);
  };
  const report = (part: string, error: unknown) => log.error({ part, err: error }, "a part did not stop in order");
  try {
    return await compose(config, log, timings, start, started, report);
  } catch (error) {
    await stopAll(started, stopDeadlineMs, report);
    throw error;
  }
};

const compose = async (
  config: Config,
  log: Logger,
  timings: Timings,
  start: (part: Lifetime) => Promise<void>,
  started: Lifetime[],
  report: (part: string, error: unknown) => void,
): Promise<ControlPlane> => {
  const dataDir = resolve(config.dataDir);
  await mkdir(dataDir, { recursive: true });
  const pipelines = await loadPipelines(config.pipelinesDir);
  const prices = await loadPrices(config.pricesFile);

  const embedded =
    config.databaseUrl === undefined ? createEmbedded({ dataDir: join(dataDir, "postgres"), log }) : undefined;
  if (embedded) await start(embedded);
  const address = embedded ? embedded.address : { url: config.databaseUrl as string };
  await migrate(address, log);
  const db = connectPostgres({ ...address, applicationName: `renderplane ${config.replica}`, poolMax, log });
  await start(db);

  const { authority } = await openAuthority(
    await installationValue(db.direct, "authority", async () => (await openAuthority(undefined)).toSave),
  );
  const saved = await installationValue(db.direct, "signing", async () => ({
    secret: randomBytes(32).toString("hex"),
  }));
  const bus = config.redisUrl === undefined ? createMemoryBus({ log }) : createRedisBus({ url: config.redisUrl, log });
  await start(bus);

  const edges: { http?: HttpEdge; grpc?: GrpcEdge } = {};
  const context: Context = {
    db,
    bus,
    pipelines,
    prices,
    timings,
    artifacts: await openArtifactFolder(join(dataDir, "artifacts")),
    signer: createAddressSigner({
      baseUrl: () => config.publicUrl ?? edges.http?.url() ?? `http://${config.listen}`,
      secret: Buffer.from(String(saved.secret), "hex"),
    }),
    authority,
    replica: config.replica,
    log,
    newId: (prefix) => `${prefix}_${ulid()}`,
    settings: {
      queueDepth: config.queueDepth,
      costLimits: { warning: config.costWarning, critical: config.costCritical, halt: config.costHalt },
      concurrency: {
        jobs: config.maxRunningJobs,
        jobsPerUser: config.maxRunningJobsPerUser,
        attemptsPerProvider: config.providerLimits,
      },
    },
  };
  await resumeReplica(context);

  const operations = bindHttpOperations(context);
  const metrics = createMetrics({
    version: packageJson.version,
    stages: [...pipelines.values()].flatMap((pipeline) => pipeline.stages.map((stage) => stage.name)),
    levels: operations,
  });
  let isStopping = false;
  const http = createHttpEdge(context, {
    listen: config.listen,
    publicUrl: config.publicUrl,
    version: packageJson.version,
    operations,
    metrics,
    isReady: async () => {
      const database = isStopping
        ? "stopping"
        : await db.direct.query("select 1").then(
            () => "ok",
            (error: Error) => error.message,
          );
      return { ok: database === "ok", checks: { database } };
    },
    enrolAddress: () => edges.grpc?.enrolAddress() ?? config.enrolListen,
  });
  const grpc = createGrpcEdge({
    operations: bindGrpcOperations(context),
    bus,
    authority,
    timings,
    log,
    agentListen: config.agentListen,
    enrolListen: config.enrolListen,
    serverNames: config.serverNames,
    onProgress: progressPublisher(context),
  });
  edges.http = http;
  edges.grpc = grpc;
  // Loops stop before the streams and the edges, so that nothing new is given to a host that is being told to come back.
  for (const part of [
    http,
    grpc,
    createRelay(context, metrics.observeEvents),
    createReaper(context),
    createWaker(context),
    createPlacer(context),
  ])
    await start(part);

  let stopping: Promise<void> | undefined;
  return {
    name: "control plane",
    http,
    grpc,
    context,
    start: async () => {},
    stop: () => {
      isStopping = true;
      stopping ??= stopAll(started, stopDeadlineMs, report);
      return stopping;
    },
  };
};
