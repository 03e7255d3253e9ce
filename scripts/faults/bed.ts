// A fleet that faults are done to: the processes of a story, the drill that they work on, a network of proxies in between, and the
// few questions that every case asks. Everything that a case starts here is stopped with the bed, by pid.
// At the end it says what must never be: jobs lost, effects applied twice, invariants broken.
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readdir, readFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { brokenFleet, markedAttempts } from "../../control-plane/src/testing/fleet-invariants.ts";
import { type Fleet, type FleetOptions, openFleet } from "../flow/fleet.ts";
import { heartbeatMs } from "./case.ts";
import { type Drill, drillProgram, layOutDrill } from "./drill.ts";
import { enrolRaw, type RawAgent } from "./raw-agent.ts";
import { openProxy, type TcpProxy } from "./tcp-proxy.ts";
import { watchTerms } from "./terms.ts";
import { until } from "./until.ts";

const root = fileURLToPath(new URL("../../", import.meta.url));
/** With every fault healed, work and two lost windows are enough (I19); the rest is for a machine that others use too. */
const settleMs = 60_000;
const endMs = 15_000;

export type AttemptRow = {
  readonly id: string;
  readonly stage: string;
  readonly number: number;
  readonly fence: bigint;
  readonly host: string;
  readonly state: "offered" | "running" | "ended";
  readonly outcome: string | null;
};

export type Bed = {
  readonly fleet: Fleet;
  readonly dir: string;
  /** A proxy to the agents' port of a replica; agents that are told of it dial it and nothing else. */
  proxy(replica?: string): Promise<TcpProxy>;
  /** `wrap`: a program and its arguments that the agent is started by, e.g. unshare. */
  startAgent(
    name: string,
    more?: { readonly proxy?: TcpProxy; readonly env?: NodeJS.ProcessEnv; readonly wrap?: readonly string[] },
  ): Promise<void>;
  /** A second process on a folder that was copied; it is online when the original was thrown out, so nothing is waited for. */
  startCopy(folder: string, name: string): Promise<void>;
  kill9(name: string): Promise<void>;
  raw(name: string, more?: Parameters<typeof enrolRaw>[2]): Promise<RawAgent>;
  /** Jobs that the bed answers for. */
  submit(pipeline: string, count?: number): Promise<string[]>;
  /** Submits one and waits until a program of its first stage runs. */
  begin(pipeline: string): Promise<{ readonly job: string; readonly attempt: AttemptRow }>;
  attempts(job: string): Promise<AttemptRow[]>;
  /** The newest attempt of the stage `work` once it runs on another host, or again. */
  nextRunning(job: string, after: AttemptRow, limitMs?: number): Promise<AttemptRow>;
  /** Waits until all jobs of the bed have ended. */
  settled(limitMs?: number): Promise<number>;
  isOnline(host: string): Promise<boolean>;
  processes(host: string): Promise<string[]>;
  /** Pids that a step of this attempt wrote down: the shim, and the program under it. */
  pids(host: string, attempt: string): Promise<{ readonly shim: number; readonly program: number }>;
  starts(): Promise<string[]>;
  verdict(allowed: readonly string[]): Promise<{
    readonly jobs: number;
    readonly jobsLost: number;
    readonly appliedTwice: number;
    readonly broken: readonly string[];
  }>;
  stop(): Promise<void>;
};

export const openBed = async (options: FleetOptions = {}): Promise<Bed> => {
  const drillEnv: NodeJS.ProcessEnv = {};
  const fleet = await openFleet({ heartbeatSeconds: heartbeatMs / 1000, ...options, env: drillEnv });
  const drill: Drill = await layOutDrill(fleet.dir);
  // The fleet reads its settings at every start; the folder is known only now.
  Object.assign(drillEnv, drill.env, options.env);
  const jobs: string[] = [];
  const proxies: TcpProxy[] = [];
  const raws: RawAgent[] = [];
  const wrapped = new Map<string, ChildProcess>();
  const agents = new Set<string>();
  const terms = watchTerms(() => fleet.sql(`select loop, holder, term from leaders`));

  const rows = (job: string) =>
    fleet.sql<AttemptRow>(
      `select a.id, s.name as stage, a.number, a.fence, h.name as host, a.state, a.outcome
       from attempts a join stages s on s.id = a.stage_id join hosts h on h.id = a.host_id where a.job_id = $1 order by a.fence`,
      [job],
    );
  const worksOn = async (job: string) => (await rows(job)).filter((a) => a.stage === "work").at(-1);
  const launch = (folder: string, name: string, wrap: readonly string[], env: NodeJS.ProcessEnv): void => {
    const [program = "", ...args] = [...wrap, process.execPath, join(root, "agent/src/start.js")];
    const child = spawn(program, args, {
      env: {
        PATH: process.env.PATH,
        HOME: fleet.dir,
        RENDERPLANE_AGENT_DIR: fleet.agentDir(folder),
        RENDERPLANE_AGENT_NAME: name,
        RENDERPLANE_ENROL_ADDRESS: fleet.replicas[0]?.enrolAddress,
        ...env,
      },
      stdio: "ignore",
    });
    wrapped.set(folder, child);
  };
  const bed: Bed = {
    fleet,
    dir: fleet.dir,
    proxy: async (replica = "control-plane") => {
      const known = fleet.replicas.find((each) => each.name === replica);
      if (!known) throw new Error(`no replica ${replica}`);
      const proxy = await openProxy(known.agentAddress);
      proxies.push(proxy);
      return proxy;
    },
    startAgent: async (name, { proxy, env = {}, wrap = [] } = {}) => {
      const own = {
        FFMPEG_PATH: drillProgram(fleet.dir),
        ...(proxy ? { RENDERPLANE_SESSION_ADDRESS: proxy.address } : {}),
        ...env,
      };
      agents.add(name);
      if (wrap.length === 0) return fleet.startAgent(name, own);
      const { body } = await fleet.api<{ token: string }>("POST", "/api/v1/enrollments", {});
      launch(name, name, wrap, { RENDERPLANE_JOIN_TOKEN: body.token, ...own });
      await until(`${name} online`, () => bed.isOnline(name), 60_000, 100);
    },
    startCopy: async (folder, name) => launch(folder, name, [], { FFMPEG_PATH: drillProgram(fleet.dir) }),
    kill9: async (name) => {
      const child = wrapped.get(name);
      wrapped.delete(name);
      if (child) return endChild(child, "SIGKILL");
      return fleet.kill9(name);
    },
    raw: async (name, more) => {
      const agent = await enrolRaw(fleet, name, more);
      raws.push(agent);
      return agent;
    },
    submit: async (pipeline, count = 1) => {
      const made: string[] = [];
      for (let n = 0; n < count; n++) {
        const id = await fleet.submit({ pipeline, request: {} });
        made.push(id);
        jobs.push(id);
      }
      return made;
    },
    begin: async (pipeline) => {
      const [job = ""] = await bed.submit(pipeline);
      let attempt: AttemptRow | undefined;
      await until(
        "the work runs",
        async () => {
          const row = await worksOn(job);
          attempt = row?.state === "running" ? row : undefined;
          return attempt !== undefined && (await bed.processes(attempt.host)).includes(attempt.id);
        },
        30_000,
        50,
      );
      return { job, attempt: attempt as AttemptRow };
    },
    attempts: rows,
    nextRunning: async (job, after, limitMs = 30_000) => {
      let next: AttemptRow | undefined;
      await until(
        `another attempt than ${after.id} runs`,
        async () => {
          const row = await worksOn(job);
          next = row !== undefined && row.id !== after.id && row.state !== "offered" ? row : undefined;
          return next !== undefined;
        },
        limitMs,
        50,
      );
      return next as AttemptRow;
    },
    settled: (limitMs = settleMs) =>
      until(
        "every job has ended",
        async () =>
          (await fleet.sql(`select id from jobs where ended_at is null and id = any($1::text[])`, [jobs])).length === 0,
        limitMs,
        100,
      ),
    isOnline: async (host) =>
      (await fleet.sql(`select id from hosts where name = $1 and replica is not null`, [host])).length > 0,
    processes: (host) => markedAttempts(fleet.agentDir(host)),
    pids: async (host, attempt) => {
      const step = join(fleet.agentDir(host), "attempts", attempt, "steps", "noop");
      const pidIn = async (name: string) =>
        (JSON.parse(await readFile(join(step, name), "utf8")) as { readonly pid: number }).pid;
      return { shim: await pidIn("shim.json"), program: await pidIn("run.json") };
    },
    starts: async () => (await drill.starts()).map((path) => basename(path)),
    verdict: async (allowed) => {
      const ended = await fleet.sql<{ id: string; state: string }>(
        `select id, state from jobs where id = any($1::text[]) and ended_at is not null`,
        [jobs],
      );
      const good = new Set(ended.filter((job) => allowed.includes(job.state)).map((job) => job.id));
      const starts = await bed.starts();
      const [twice] = await fleet.sql<{ count: number }>(
        `select (select count(*)::int from (select 1 from events where type = 'stage.completed' group by job_id, body ->> 'stage' having count(*) > 1) c)
              + (select count(*)::int from (select 1 from ledger where kind <> 'charge' group by attempt_id, kind having count(*) > 1) l)
              + (select count(*)::int from (select 1 from attempts where outcome = 'succeeded' group by stage_id having count(*) > 1) a) as count`,
      );
      const living = [...agents].filter((name) => wrapped.has(name) || fleet.isAlive(name));
      return {
        jobs: jobs.length,
        jobsLost: jobs.filter((id) => !good.has(id)).length,
        appliedTwice: (twice?.count ?? 0) + (starts.length - new Set(starts).size),
        broken: [
          ...(await brokenFleet({
            sql: (text) => fleet.sql(text),
            agentDirs: living.map((name) => fleet.agentDir(name)),
            windowMs: heartbeatMs * 12,
          })),
          ...terms.broken(),
        ],
      };
    },
    stop: async () => {
      await terms.stop();
      for (const raw of raws) raw.close();
      for (const proxy of proxies) proxy.heal();
      for (const child of wrapped.values()) await endChild(child, "SIGTERM");
      await fleet.stop();
      for (const proxy of proxies) await proxy.stop();
      // Programs outlive their agents on purpose; the folder is gone, so nobody adopts these.
      for (const name of agents) for (const pid of await markedPids(fleet.agentDir(name))) killQuietly(pid);
    },
  };
  return bed;
};

const endChild = async (child: ChildProcess, signal: NodeJS.Signals): Promise<void> => {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  const gone = once(child, "exit");
  child.kill(signal);
  const late = setTimeout(() => child.kill("SIGKILL"), endMs);
  await gone;
  clearTimeout(late);
};

/** Pids whose environment names a folder of this agent. */
export const markedPids = async (agentDir: string): Promise<number[]> => {
  const found: number[] = [];
  for (const entry of await readdir("/proc")) {
    if (!/^\d+$/.test(entry)) continue;
    const environment = await readFile(`/proc/${entry}/environ`, "latin1").catch(() => "");
    if (environment.includes(`RENDERPLANE_ATTEMPT=${join(agentDir, "attempts")}/`)) found.push(Number(entry));
  }
  return found;
};

const killQuietly = (pid: number): void => {
  try {
    process.kill(pid, "SIGKILL");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
};
