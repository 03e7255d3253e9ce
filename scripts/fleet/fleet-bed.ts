// A system to load: a PostgreSQL with fsync on, a Redis when it is wanted, and control planes as processes, on private ports and in
// a folder of their own that goes with them. Unlike the tests' fleet it is made for figures: the packaged server with its
// own settings, a queue without a small limit, and the pids of everything that is measured.
import { type ChildProcess, spawn } from "node:child_process";
import { createWriteStream } from "node:fs";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { silentLogger } from "@renderplane/proto/kernel/process/logger.ts";
import type { Database, Tx } from "../../control-plane/src/store/database.ts";
import { createEmbedded } from "../../control-plane/src/store/embedded.ts";
import { connectPostgres, type PostgresAddress } from "../../control-plane/src/store/postgres.ts";
import { startRedis } from "../backends/redis.ts";
import { freePort } from "../backends/server-process.ts";
import { repositoryRoot } from "../checks/repository.ts";
import { benchPipelines } from "./bench-pipelines.ts";

const readyLimitMs = 90_000;
const stopLimitMs = 20_000;

export type Replica = {
  readonly name: string;
  readonly url: string;
  readonly agentAddress: string;
  readonly enrolAddress: string;
  readonly pid: () => number;
  /** SIGKILL, or another signal; resolves when it is gone. */
  readonly end: (signal: NodeJS.Signals) => Promise<void>;
  /** Starts it again on the same ports; resolves when it is ready. */
  readonly start: () => Promise<void>;
};

export type FleetBed = {
  readonly dir: string;
  readonly replicas: readonly Replica[];
  /** For statements that take long: a backlog of a million rows, vacuum, invariants. */
  readonly db: Database;
  readonly sql: Tx;
  readonly address: PostgresAddress;
  /** The same as a connection string, with another database when it is named. */
  readonly urlOf: (database?: string) => string;
  readonly redis: { readonly url: string; readonly pid: number; readonly stop: () => Promise<void> } | undefined;
  readonly stop: () => Promise<void>;
};

export type FleetBedOptions = {
  readonly replicas?: number;
  readonly redis?: boolean;
  readonly heartbeatSeconds?: number;
  readonly env?: NodeJS.ProcessEnv;
  /** Settings of the server; they win over its own. */
  readonly server?: Readonly<Record<string, string>>;
  /** Arguments of node for the control planes, e.g. --cpu-prof. */
  readonly nodeArgs?: readonly string[];
  readonly signal?: AbortSignal;
};

export const openFleetBed = async (options: FleetBedOptions = {}): Promise<FleetBed> => {
  const dir = await mkdtemp(join(tmpdir(), "renderplane-fleet-"));
  const undo: (() => Promise<unknown>)[] = [() => rm(dir, { recursive: true, force: true })];
  const stop = async () => {
    for (const act of undo.splice(0).reverse()) await act().catch((error: unknown) => console.error(error));
  };
  try {
    const server = createEmbedded({
      dataDir: join(dir, "postgres"),
      log: silentLogger(),
      settings: { max_connections: "150", shared_buffers: "256MB", ...options.server },
      isWatched: false,
    });
    await server.start();
    undo.push(() => server.stop());
    const { address } = server;
    if (!("socketDir" in address)) throw new Error("the packaged server listens on a socket");
    const urlOf = (database = address.database) =>
      `postgresql://${address.user}@localhost:5432/${database}?host=${encodeURIComponent(address.socketDir)}`;
    const redis = options.redis ? await startRedis(dir) : undefined;
    if (redis) undo.push(() => redis.stop());
    const pipelines = join(dir, "pipelines");
    await mkdir(pipelines);
    for (const [name, text] of Object.entries(benchPipelines)) await writeFile(join(pipelines, `${name}.yaml`), text);

    const replicas: Replica[] = [];
    for (let i = 0; i < (options.replicas ?? 1); i++) {
      const replica = await prepareReplica(dir, `r${i + 1}`, pipelines, urlOf(), redis?.url, options);
      undo.push(() => replica.end("SIGTERM"));
      await replica.start();
      replicas.push(replica);
    }
    // Minutes: a backlog of a million rows is one statement.
    const db = connectPostgres({ ...address, applicationName: "fleet", poolMax: 4, statementMs: 900_000 });
    await db.start();
    undo.push(() => db.stop());
    return { dir, replicas, db, sql: db.direct, address, urlOf, redis, stop };
  } catch (error) {
    await stop();
    throw error;
  }
};

const prepareReplica = async (
  dir: string,
  name: string,
  pipelines: string,
  databaseUrl: string,
  redisUrl: string | undefined,
  options: FleetBedOptions,
): Promise<Replica> => {
  const [http, agents, enrol] = [await freePort(), await freePort(), await freePort()];
  const url = `http://127.0.0.1:${http}`;
  const logFile = join(dir, `${name}.log`);
  let child: ChildProcess | undefined;
  const isAlive = () => child !== undefined && child.exitCode === null && child.signalCode === null;
  const end = async (signal: NodeJS.Signals) => {
    const one = child;
    if (!one || !isAlive()) return;
    const gone = new Promise((resolve) => one.once("exit", resolve));
    one.kill(signal);
    const late = setTimeout(() => one.kill("SIGKILL"), stopLimitMs);
    await gone;
    clearTimeout(late);
  };
  return {
    name,
    url,
    agentAddress: `127.0.0.1:${agents}`,
    enrolAddress: `127.0.0.1:${enrol}`,
    pid: () => child?.pid ?? 0,
    end,
    start: async () => {
      const log = createWriteStream(logFile, { flags: "a" });
      child = spawn(
        process.execPath,
        [...(options.nodeArgs ?? []), join(repositoryRoot(), "control-plane/src/main.ts")],
        {
          cwd: dir,
          env: {
            PATH: process.env.PATH,
            HOME: dir,
            LOG_LEVEL: "warn",
            RENDERPLANE_REPLICA: name,
            RENDERPLANE_DATA_DIR: join(dir, "control-plane"),
            RENDERPLANE_LISTEN: `127.0.0.1:${http}`,
            RENDERPLANE_GRPC_LISTEN: `127.0.0.1:${agents}`,
            RENDERPLANE_ENROL_LISTEN: `127.0.0.1:${enrol}`,
            RENDERPLANE_PIPELINES_DIR: pipelines,
            RENDERPLANE_QUEUE_MAX_DEPTH: "1000000",
            RENDERPLANE_MAX_RUNNING_JOBS: "1000000",
            RENDERPLANE_HEARTBEAT_SECONDS: String(options.heartbeatSeconds ?? 5),
            DATABASE_URL: databaseUrl,
            ...(redisUrl === undefined ? {} : { REDIS_URL: redisUrl }),
            ...options.env,
          },
          stdio: ["ignore", "pipe", "pipe"],
        },
      );
      child.stdout?.pipe(log, { end: false });
      child.stderr?.pipe(log, { end: false });
      child.once("exit", () => log.end());
      const limit = performance.now() + readyLimitMs;
      while (!(await isReady(url))) {
        options.signal?.throwIfAborted();
        if (!isAlive() || performance.now() > limit)
          throw new Error(`the control plane ${name} is not ready:\n${(await readFile(logFile, "utf8")).slice(-4000)}`);
        await pause(20);
      }
    },
  };
};

const isReady = async (url: string): Promise<boolean> =>
  fetch(`${url}/readyz`).then(
    (response) => response.ok,
    () => false,
  );
