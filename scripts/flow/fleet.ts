// A whole fleet for a story: a control plane and agents as real processes on private ports and folders of this machine.
// Processes can be killed with -9 and started again on the same folders, which is the point. Everything is stopped by pid.
import { type ChildProcess, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { connectPostgres } from "../../control-plane/src/store/postgres.ts";
import { brokenInvariants } from "../../control-plane/src/testing/invariants.ts";

const root = fileURLToPath(new URL("../../", import.meta.url));

/** What a story reads of the API's answers. */
export type FailureJson = {
  readonly class: string;
  readonly severity: string;
  readonly stage: string;
  readonly message: string;
};
export type AttemptJson = { readonly id: string; readonly host: string; readonly outcome: string | null };
export type StageJson = {
  readonly name: string;
  readonly state: string;
  readonly progress: number;
  readonly result: { readonly [key: string]: unknown } | null;
  readonly attempts: readonly AttemptJson[];
};
export type JobJson = {
  readonly id: string;
  readonly state: string;
  readonly failure: FailureJson | null;
  readonly held_cost: number;
  readonly actual_cost: number;
  readonly stages: readonly StageJson[];
};
export type ArtifactJson = {
  readonly stage: string;
  readonly name: string;
  readonly sha256: string;
  readonly size_bytes: number;
  readonly url: string;
};
export type Answer<T> = { readonly status: number; readonly body: T; readonly headers: Headers };
type Body = { readonly [key: string]: unknown };
export type Media = { readonly name: string; readonly bytes: Uint8Array };
export type Fleet = {
  readonly dir: string;
  readonly url: string;
  startControlPlane(): Promise<void>;
  /** The first start enrols with a fresh token; a later one resumes the identity in its folder. */
  startAgent(name: string, env?: NodeJS.ProcessEnv): Promise<void>;
  /** SIGKILL to one process, and to nothing that it started. Resolves when it is gone. */
  kill9(name: string): Promise<void>;
  /** SIGTERM; answers the exit code. */
  terminate(name: string): Promise<number | null>;
  /** Starts another control plane on the same data folder but other ports, and waits until it has ended. */
  startSecond(): Promise<{ readonly code: number | null; readonly stderr: string }>;
  agentDir(name: string): string;
  api<T = Body>(method: string, path: string, body?: unknown): Promise<Answer<T>>;
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

export const openFleet = async (env: NodeJS.ProcessEnv = {}): Promise<Fleet> => {
  const dir = await mkdtemp(join(tmpdir(), "renderplane-flow-"));
  const [http, agents, enrol] = [await freePort(), await freePort(), await freePort()];
  const url = `http://127.0.0.1:${http}`;
  const children = new Map<string, ChildProcess>();
  const logs = new Map<string, string[]>();

  const launch = (name: string, program: string, own: NodeJS.ProcessEnv) => {
    const child = spawn(process.execPath, [join(root, program)], {
      env: { PATH: process.env.PATH, HOME: dir, LOG_LEVEL: "info", ...own },
      stdio: ["ignore", "pipe", "pipe"],
    });
    const lines = logs.get(name) ?? [];
    logs.set(name, lines);
    for (const stream of [child.stdout, child.stderr])
      stream.on("data", (chunk: Buffer) => lines.push(chunk.toString()));
    children.set(name, child);
    return child;
  };
  const alive = (name: string) => {
    const child = children.get(name);
    return child !== undefined && child.exitCode === null && child.signalCode === null;
  };
  const end = async (name: string, signal: NodeJS.Signals) => {
    const child = children.get(name);
    if (!child || !alive(name)) return;
    const gone = new Promise((resolve) => child.once("exit", resolve));
    child.kill(signal);
    await gone;
  };
  const tail = (name: string) => (logs.get(name) ?? []).join("").slice(-4000);
  const waitFor = async (what: string, holds: () => Promise<boolean>, limitMs: number, culprit: string) => {
    const deadline = performance.now() + limitMs;
    while (!(await holds().catch(() => false))) {
      if (performance.now() > deadline || !alive(culprit))
        throw new Error(`${what} did not happen; ${culprit} said:\n${tail(culprit)}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  };
  const api = async <T = Body>(method: string, path: string, body?: unknown): Promise<Answer<T>> => {
    const isForm = body instanceof FormData;
    const response = await fetch(url + path, {
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
  const database = () =>
    connectPostgres({
      socketDir: join(dir, "control-plane", "postgres", "socket"),
      user: "renderplane",
      database: "renderplane",
      applicationName: "flow",
      poolMax: 2,
    });
  const sql: Fleet["sql"] = async (text, params = []) => {
    const db = database();
    await db.start();
    try {
      return (await db.direct.query(text, params)).rows as never;
    } finally {
      await db.stop();
    }
  };
  const fleet: Fleet = {
    dir,
    url,
    startControlPlane: async () => {
      launch("control-plane", "control-plane/src/main.ts", {
        RENDERPLANE_DATA_DIR: join(dir, "control-plane"),
        RENDERPLANE_LISTEN: `127.0.0.1:${http}`,
        RENDERPLANE_GRPC_LISTEN: `127.0.0.1:${agents}`,
        RENDERPLANE_ENROL_LISTEN: `127.0.0.1:${enrol}`,
        ...env,
      });
      await waitFor("readiness", async () => (await api("GET", "/readyz")).status === 200, 60_000, "control-plane");
    },
    startAgent: async (name, own = {}) => {
      const { body } = await api<{ token: string }>("POST", "/api/v1/enrollments", {});
      launch(name, "agent/src/start.js", {
        RENDERPLANE_AGENT_DIR: fleet.agentDir(name),
        RENDERPLANE_AGENT_NAME: name,
        RENDERPLANE_ENROL_ADDRESS: `127.0.0.1:${enrol}`,
        RENDERPLANE_JOIN_TOKEN: body.token,
        ...own,
      });
      const isOnline = async () => {
        const hosts = await api<{ items: { name: string; presence: string }[] }>("GET", "/api/v1/hosts");
        return hosts.body.items.some((host) => host.name === name && host.presence === "online");
      };
      await waitFor(`${name} online`, isOnline, 60_000, name);
    },
    kill9: (name) => end(name, "SIGKILL"),
    terminate: async (name) => {
      await end(name, "SIGTERM");
      return children.get(name)?.exitCode ?? null;
    },
    startSecond: async () => {
      const child = launch("second", "control-plane/src/main.ts", {
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
          const said = [...logs.keys()].map((name) => `${name}:\n${tail(name)}`).join("\n");
          throw new Error(`${what} did not happen: ${JSON.stringify(job)?.slice(0, 3000)}\n${said}`);
        }
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    },
    sql,
    broken: () => brokenInvariants((text) => sql(text)),
    stop: async () => {
      for (const name of [...children.keys()].reverse()) await end(name, "SIGTERM");
      await rm(dir, { recursive: true, force: true });
    },
  };
  return fleet;
};

export const isOver = (job: JobJson): boolean => ["completed", "failed", "cancelled"].includes(job.state);
export const stageOf = (job: JobJson, name: string): StageJson => {
  const found = job.stages.find((stage) => stage.name === name);
  if (!found) throw new Error(`job ${job.id} has no stage ${name}`);
  return found;
};

/** Pids of this machine whose environment carries the marker of an attempt (its folder): what a host really runs. */
export const processesOf = async (attemptId: string): Promise<number[]> => {
  const found: number[] = [];
  for (const entry of await readdir("/proc")) {
    if (!/^\d+$/.test(entry)) continue;
    const environment = await readFile(`/proc/${entry}/environ`, "latin1").catch(() => "");
    const isMarked = (line: string) => line.startsWith("RENDERPLANE_ATTEMPT=") && line.endsWith(attemptId);
    if (environment.split("\0").some(isMarked)) found.push(Number(entry));
  }
  return found;
};

const freePort = (): Promise<number> =>
  new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const address = server.address();
      server.close(() => resolve(address !== null && typeof address === "object" ? address.port : 0));
    });
  });
