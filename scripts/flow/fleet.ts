// A whole fleet for a story: one to three replicas of the control plane and agents, real processes on private ports and folders
// of this machine, on the packaged database or on an outside PostgreSQL, with or without Redis. Everything can be killed with -9,
// frozen, and started again on the same folders, which is the point. Everything is stopped by pid.
import { createHash } from "node:crypto";
import { chmod, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connectPostgres } from "../../control-plane/src/store/postgres.ts";
import { brokenInvariants } from "../../control-plane/src/testing/invariants.ts";
import { freePort } from "../backends/server-process.ts";
import { type OutsideServer, outsideFolder, startOutside } from "./outside.ts";
import { createProcesses, type Processes } from "./processes.ts";
import type { Answer, ArtifactJson, Body, JobJson, Media } from "./shapes.ts";

export { processesOf } from "./processes.ts";
export {
  type Answer,
  type ArtifactJson,
  type AttemptJson,
  isOver,
  type JobJson,
  type StageJson,
  stageOf,
} from "./shapes.ts";

export type FleetOptions = {
  /** For every control plane, over what the fleet sets itself. */
  readonly env?: NodeJS.ProcessEnv;
  /** More than one needs the outside database and Redis; both are then the default. */
  readonly replicas?: 1 | 2 | 3;
  readonly database?: "embedded" | "outside";
  readonly redis?: boolean;
  /** Every window follows from it; 0.2 to 0.5 makes outages testable. */
  readonly heartbeatSeconds?: number;
};
export type Replica = {
  /** Of the process and of the setting RENDERPLANE_REPLICA: control-plane, control-plane-2, control-plane-3. */
  readonly name: string;
  readonly url: string;
  readonly agentAddress: string;
  readonly enrolAddress: string;
};
export type Fleet = Pick<Processes, "isAlive" | "freeze" | "thaw" | "pid" | "said"> & {
  readonly dir: string;
  readonly artifactsDir: string;
  /** Of the first replica. */
  readonly url: string;
  readonly replicas: readonly Replica[];
  /** Only where the fleet has it; throws otherwise. */
  readonly postgres: OutsideServer;
  readonly redis: OutsideServer;
  /** One replica, the first when none is named; resolves when it is ready. */
  startControlPlane(name?: string, env?: NodeJS.ProcessEnv): Promise<void>;
  /** All replicas that do not run. */
  startControlPlanes(): Promise<void>;
  /** The first start enrols with a fresh token at a replica that runs; a later one resumes the identity in its folder. */
  startAgent(name: string, env?: NodeJS.ProcessEnv): Promise<void>;
  /** SIGKILL to one process, and to nothing that it started. Resolves when it is gone. */
  kill9(name: string): Promise<void>;
  /** SIGTERM; answers the exit code. */
  terminate(name: string): Promise<number | null>;
  /** Starts another control plane on the same data folder but other ports, and waits until it has ended. */
  startSecond(): Promise<{ readonly code: number | null; readonly stderr: string }>;
  agentDir(name: string): string;
  /** Asks the named replica, or else the first that takes the connection: what a careful client does. */
  api<T = Body>(method: string, path: string, body?: unknown, replica?: string): Promise<Answer<T>>;
  /** Submits as JSON, or as a form when there is media. */
  post(body: Body, media?: readonly Media[]): Promise<Answer<Body & { readonly id?: string }>>;
  /** The id of the accepted job; throws with the answer when it was refused. */
  submit(body: Body, media?: readonly Media[]): Promise<string>;
  artifacts(id: string): Promise<readonly ArtifactJson[]>;
  /** The bytes of an artifact, checked against its checksum. */
  download(artifact: ArtifactJson): Promise<Uint8Array>;
  job(id: string): Promise<JobJson>;
  /** Polls until the predicate holds; throws with the job as it is at the deadline. */
  until(id: string, what: string, holds: (job: JobJson) => boolean, limitMs?: number): Promise<JobJson>;
  sql<R = Body>(text: string, params?: readonly unknown[]): Promise<R[]>;
  broken(): Promise<string[]>;
  stop(): Promise<void>;
};

export const openFleet = async (options: FleetOptions = {}): Promise<Fleet> => {
  const count = options.replicas ?? 1;
  const isOutside = (options.database ?? (count > 1 ? "outside" : "embedded")) === "outside";
  const dir = await mkdtemp(join(tmpdir(), "renderplane-flow-"));
  // The outside PostgreSQL runs as a user of its own and must reach its folder; what is secret has its own mode.
  if (isOutside) await chmod(dir, 0o711);
  const outside: { postgres?: OutsideServer; redis?: OutsideServer } = {};
  if (isOutside) outside.postgres = await startOutside("postgres", outsideFolder(dir, "postgres"));
  if (options.redis ?? count > 1) outside.redis = await startOutside("redis", outsideFolder(dir, "redis"));
  const artifactsDir = isOutside ? join(dir, "artifacts") : join(dir, "control-plane", "artifacts");
  const replicas: Replica[] = [];
  for (let n = 1; n <= count; n++)
    replicas.push({
      name: n === 1 ? "control-plane" : `control-plane-${n}`,
      url: `http://127.0.0.1:${await freePort()}`,
      agentAddress: `127.0.0.1:${await freePort()}`,
      enrolAddress: `127.0.0.1:${await freePort()}`,
    });
  const named = (name: string): Replica => {
    const found = replicas.find((replica) => replica.name === name);
    if (!found) throw new Error(`this fleet has no replica ${name}`);
    return found;
  };
  const { url } = named("control-plane");
  const processes = createProcesses(dir);
  const answering = () =>
    replicas.filter((replica) => processes.isAlive(replica.name) && !processes.isFrozen(replica.name));

  const tail = (name: string) => processes.said(name).slice(-4000);
  const waitFor = async (what: string, holds: () => Promise<boolean>, limitMs: number, culprit: string) => {
    const deadline = performance.now() + limitMs;
    while (!(await holds().catch(() => false))) {
      if (performance.now() > deadline || !processes.isAlive(culprit))
        throw new Error(`${what} did not happen; ${culprit} said:\n${tail(culprit)}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  };
  const ask = async <T = Body>(at: string, method: string, path: string, body?: unknown): Promise<Answer<T>> => {
    const isForm = body instanceof FormData;
    const response = await fetch(at + path, {
      method,
      ...(body === undefined
        ? {}
        : {
            body: isForm ? body : JSON.stringify(body),
            headers: isForm ? {} : { "content-type": "application/json" },
          }),
    });
    const text = await response.text();
    return {
      status: response.status,
      headers: response.headers,
      body: (text.startsWith("{") ? JSON.parse(text) : { text }) as T,
    };
  };
  const api: Fleet["api"] = async (method, path, body, replica) => {
    if (replica !== undefined) return ask(named(replica).url, method, path, body);
    const urls = answering().map((known) => known.url);
    for (const other of urls.slice(0, -1)) {
      try {
        return await ask(other, method, path, body);
      } catch (error) {
        // Only a refused connection proves that nothing was done.
        if (!isRefused(error)) throw error;
      }
    }
    return ask(urls.at(-1) ?? url, method, path, body);
  };
  const address = outside.postgres
    ? { url: outside.postgres.url }
    : {
        socketDir: join(dir, "control-plane", "postgres", "socket"),
        user: "renderplane",
        database: "renderplane",
      };
  const sql: Fleet["sql"] = async (text, params = []) => {
    const db = connectPostgres({ ...address, applicationName: "flow", poolMax: 2 });
    await db.start();
    try {
      return (await db.direct.query(text, params)).rows as never;
    } finally {
      await db.stop();
    }
  };
  const settingsOf = (replica: Replica): NodeJS.ProcessEnv => ({
    RENDERPLANE_DATA_DIR: join(dir, replica.name),
    RENDERPLANE_REPLICA: replica.name,
    RENDERPLANE_LISTEN: new URL(replica.url).host,
    RENDERPLANE_GRPC_LISTEN: replica.agentAddress,
    RENDERPLANE_ENROL_LISTEN: replica.enrolAddress,
    ...(outside.postgres ? { DATABASE_URL: outside.postgres.url, RENDERPLANE_ARTIFACTS_DIR: artifactsDir } : {}),
    ...(outside.redis ? { REDIS_URL: outside.redis.url } : {}),
    ...(options.heartbeatSeconds === undefined
      ? {}
      : { RENDERPLANE_HEARTBEAT_SECONDS: String(options.heartbeatSeconds) }),
    ...options.env,
  });
  const present = (kind: "postgres" | "redis"): OutsideServer => {
    const server = outside[kind];
    if (!server) throw new Error(`this fleet has no outside ${kind}`);
    return server;
  };
  const fleet: Fleet = {
    dir,
    artifactsDir,
    url,
    replicas,
    get postgres() {
      return present("postgres");
    },
    get redis() {
      return present("redis");
    },
    isAlive: processes.isAlive,
    freeze: processes.freeze,
    thaw: processes.thaw,
    pid: processes.pid,
    said: processes.said,
    startControlPlane: async (name = "control-plane", env = {}) => {
      const replica = named(name);
      processes.launch(name, "control-plane/src/main.ts", { ...settingsOf(replica), ...env });
      const isReady = async () => (await ask(replica.url, "GET", "/readyz")).status === 200;
      await waitFor("readiness", isReady, 60_000, name);
    },
    startControlPlanes: async () => {
      const missing = replicas.filter((replica) => !processes.isAlive(replica.name));
      await Promise.all(missing.map((replica) => fleet.startControlPlane(replica.name)));
    },
    startAgent: async (name, own = {}) => {
      const { body } = await api<{ token: string }>("POST", "/api/v1/enrollments", {});
      processes.launch(name, "agent/src/start.js", {
        RENDERPLANE_AGENT_DIR: fleet.agentDir(name),
        RENDERPLANE_AGENT_NAME: name,
        RENDERPLANE_ENROL_ADDRESS: (answering()[0] ?? named("control-plane")).enrolAddress,
        RENDERPLANE_JOIN_TOKEN: body.token,
        ...own,
      });
      const isOnline = async () => {
        const hosts = await api<{ items: { name: string; presence: string }[] }>("GET", "/api/v1/hosts");
        return hosts.body.items.some((host) => host.name === name && host.presence === "online");
      };
      await waitFor(`${name} online`, isOnline, 60_000, name);
    },
    kill9: (name) => processes.end(name, "SIGKILL"),
    terminate: async (name) => {
      await processes.end(name, "SIGTERM");
      return processes.exitCode(name);
    },
    startSecond: async () => {
      const child = processes.launch("second", "control-plane/src/main.ts", {
        RENDERPLANE_DATA_DIR: join(dir, "control-plane"),
        RENDERPLANE_LISTEN: "127.0.0.1:0",
        RENDERPLANE_GRPC_LISTEN: "127.0.0.1:0",
        RENDERPLANE_ENROL_LISTEN: "127.0.0.1:0",
      });
      await new Promise((resolve) => child.once("close", resolve));
      return { code: child.exitCode, stderr: tail("second") };
    },
    agentDir: (name) => join(dir, "agents", name),
    api,
    post: (body, media = []) => {
      const form = new FormData();
      form.set("job", JSON.stringify(body));
      for (const file of media) form.append("media", new Blob([file.bytes as Uint8Array<ArrayBuffer>]), file.name);
      return api("POST", "/api/v1/jobs", media.length === 0 ? body : form);
    },
    submit: async (body, media = []) => {
      const answer = await fleet.post(body, media);
      if (answer.body.id === undefined)
        throw new Error(`refused with ${answer.status}: ${JSON.stringify(answer.body)}`);
      return answer.body.id;
    },
    artifacts: async (id) => (await api<{ items: ArtifactJson[] }>("GET", `/api/v1/jobs/${id}/artifacts`)).body.items,
    download: async (artifact) => {
      const bytes = new Uint8Array(await (await fetch(new URL(artifact.url, url))).arrayBuffer());
      const sha256 = createHash("sha256").update(bytes).digest("hex");
      if (sha256 !== artifact.sha256)
        throw new Error(`${artifact.name} arrived as ${sha256}, not as ${artifact.sha256}`);
      return bytes;
    },
    job: async (id) => (await api<JobJson>("GET", `/api/v1/jobs/${id}`)).body,
    until: async (id, what, holds, limitMs = 120_000) => {
      const deadline = performance.now() + limitMs;
      for (;;) {
        const job = await fleet.job(id).catch(() => undefined);
        if (job?.id && holds(job)) return job;
        if (performance.now() > deadline) {
          const said = processes
            .names()
            .map((name) => `${name}:\n${tail(name)}`)
            .join("\n");
          throw new Error(`${what} did not happen: ${JSON.stringify(job)?.slice(0, 3000)}\n${said}`);
        }
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    },
    sql,
    broken: () => brokenInvariants((text) => sql(text)),
    stop: async () => {
      const planes = new Set(replicas.map((replica) => replica.name));
      const names = processes.names();
      await Promise.all(names.filter((name) => !planes.has(name)).map((name) => processes.end(name, "SIGTERM")));
      await Promise.all([outside.postgres?.thaw(), outside.redis?.thaw()]);
      await Promise.all(names.filter((name) => planes.has(name)).map((name) => processes.end(name, "SIGTERM")));
      await Promise.all([outside.postgres?.stop(), outside.redis?.stop()]);
      await rm(dir, { recursive: true, force: true });
    },
  };
  return fleet;
};

/** What fetch says when nobody listens there. */
const isRefused = (error: unknown): boolean => {
  const cause = error instanceof Error ? (error.cause as { code?: string } | undefined) : undefined;
  return cause?.code === "ECONNREFUSED";
};
