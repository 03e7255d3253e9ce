// The composition root: the only place that knows the embedded database from an outside one and memory from Redis.
// Starts in order (database, bus, its row among the replicas, edges, loops) and stops in reverse: not ready, loops with their leads
// given back, streams moved to other replicas, its row, bus, database. One deadline for all of it.
import { randomBytes } from "node:crypto";
import { mkdir } from "node:fs/promises";
import { join, resolve } from "node:path";
import { type Timings, timingsOf } from "@renderplane/proto/kernel/limits.ts";
import { type Lifetime, stopAll, together } from "@renderplane/proto/kernel/process/lifecycle.ts";
import type { Logger } from "@renderplane/proto/kernel/process/logger.ts";
import packageJson from "../package.json" with { type: "json" };
import { createAddressSigner } from "./artifacts/address-signer.ts";
import { openArtifactFolder } from "./artifacts/folder.ts";
import { createMemoryBus } from "./bus/memory.ts";
import { createQueueMirror } from "./bus/queue-mirror.ts";
import { createRedisBus } from "./bus/redis.ts";
import type { Config } from "./config.ts";
import { createGrpcEdge, type GrpcEdge } from "./grpc/agent-server.ts";
import { bindGrpcOperations } from "./grpc/bind.ts";
import { bindHttpOperations } from "./http/bind.ts";
import { createHttpEdge, type HttpEdge } from "./http/edge.ts";
import { openAuthority } from "./identity/authority.ts";
import { loadPipelines, loadPrices } from "./load-data.ts";
import { createDeadlines } from "./loops/deadlines.ts";
import { createHostWatch } from "./loops/hosts.ts";
import { led } from "./loops/led.ts";
import { createMirror } from "./loops/mirror.ts";
import { createPlacer } from "./loops/placer.ts";
import { createReaper } from "./loops/reaper.ts";
import { createRelay } from "./loops/relay.ts";
import { createReplica, createReplicaWatch } from "./loops/replica.ts";
import { createRetention } from "./loops/retention.ts";
import { createWaker } from "./loops/waker.ts";
import { createMetrics } from "./metrics/registry.ts";
import { createIds } from "./new-id.ts";
import type { Context } from "./operations/context.ts";
import { defaultRetention } from "./operations/prune-history.ts";
import { progressPublisher } from "./operations/publish-progress.ts";
import { resumeReplica } from "./operations/resume-replica.ts";
import { createEmbedded } from "./store/embedded.ts";
import { installationValue } from "./store/installation.ts";
import { migrate } from "./store/migrate.ts";
import { connectPostgres } from "./store/postgres.ts";
import { applicationName, type ReplicaSelf } from "./store/replicas.ts";

export type ControlPlane = Lifetime & { readonly http: HttpEdge; readonly grpc: GrpcEdge; readonly context: Context };

/** What takes longer than this to stop is left behind; the next start recovers what it held. Below main's 40 s, which end the process. */
const stopDeadlineMs = 35_000;
/** Turns are short; one that hangs holds row locks only as long as the database lets it. */
const stopLoopsMs = 5_000;
/** At most this many connections: enough for the loops, the edges and a burst of submissions on one replica. */
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

  // New at every start: two processes that are given one name by mistake do not take each other's sessions.
  const id = `${config.replica}.${randomBytes(4).toString("hex")}`;
  const embedded =
    config.databaseUrl === undefined ? createEmbedded({ dataDir: join(dataDir, "postgres"), log }) : undefined;
  if (embedded) await start(embedded);
  const address = embedded ? embedded.address : { url: config.databaseUrl as string };
  await migrate(address, log);
  const db = connectPostgres({ ...address, applicationName: applicationName(id), poolMax, log });
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
    artifacts: await openArtifactFolder(
      config.artifactsDir === undefined ? join(dataDir, "artifacts") : resolve(config.artifactsDir),
    ),
    signer: createAddressSigner({
      baseUrl: () => config.publicUrl ?? edges.http?.url() ?? `http://${config.listen}`,
      secret: Buffer.from(String(saved.secret), "hex"),
    }),
    authority,
    replica: id,
    log,
    newId: createIds(),
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
  const self = (): ReplicaSelf => ({
    id,
    name: config.replica,
    version: packageJson.version,
    agentAddress: reachable(config.agentAddress ?? edges.grpc?.agentAddress() ?? config.agentListen),
    httpAddress: config.publicUrl ?? edges.http?.url() ?? `http://${config.listen}`,
  });
  await resumeReplica(context, self());

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
  const replica = createReplica(context, {
    self,
    isAlone: config.redisUrl === undefined,
    onForgotten: () => void edges.grpc?.recall(timings.heartbeatMs),
  });
  const grpc = createGrpcEdge({
    operations: bindGrpcOperations(context),
    bus,
    authority,
    timings,
    log,
    agentListen: config.agentListen,
    enrolListen: config.enrolListen,
    // The certificate must carry the name that agents are told.
    serverNames: [...config.serverNames, ...(config.agentAddress === undefined ? [] : [hostOf(config.agentAddress)])],
    ...(config.agentAddress === undefined ? {} : { sessionAddress: config.agentAddress }),
    addresses: replica.agentAddresses,
    onProgress: progressPublisher(context),
  });
  const loops = [
    led(context, "relay", (ctx) => createRelay(ctx, metrics.observeEvents)),
    led(context, "reaper", createReaper),
    led(context, "waker", createWaker),
    led(context, "placer", createPlacer),
    led(context, "deadlines", createDeadlines),
    led(context, "hosts", createHostWatch),
    led(context, "replicas", createReplicaWatch),
    led(context, "retention", (ctx) => createRetention(ctx, { ...defaultRetention, jobsMs: config.keepJobsMs })),
  ];
  if (config.redisUrl !== undefined) {
    const mirror = createQueueMirror({ url: config.redisUrl, log });
    await start(mirror);
    loops.push(led(context, "mirror", (ctx) => createMirror(ctx, mirror)));
  }
  // Loops stop before the streams and the edges, so that nothing new is given to a host that is being told to come back.
  const parts: readonly Lifetime[] = [replica, http, grpc, together("loops", loops, stopLoopsMs)];
  for (const part of parts) {
    await start(part);
    if (part === http) edges.http = http;
    if (part === grpc) edges.grpc = grpc;
  }
  // Its row was written before the listeners had their ports.
  replica.ring();

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

/** What others can dial; "" for an address that means every interface of this machine, or a port that is not chosen yet. */
const reachable = (address: string): string => (/^(0\.0\.0\.0|\[::\]|):\d+$|:0$/.test(address) ? "" : address);

/** Without the port, and without the brackets of an IPv6 address. */
const hostOf = (address: string): string => address.slice(0, address.lastIndexOf(":")).replace(/^\[|\]$/g, "");
