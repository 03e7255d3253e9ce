// One control plane and one agent on this machine, as two processes with a folder each: what quickstart and the benchmarks run.
// Starts them in order, enrols the agent once, stops them in reverse. Always on the embedded default, whatever DATABASE_URL
// or REDIS_URL of the caller's environment mean to somebody else.
import { existsSync } from "node:fs";
import { mkdir, rm, stat, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { identityPath } from "../../agent/src/link/identity.ts";
import { type Client, createClient } from "../../control-plane/src/cli/client.ts";
import type { EnrollmentJson, HostJson, Page } from "../../control-plane/src/cli/shapes.ts";
import { repositoryRoot } from "../checks/repository.ts";
import { type KeptProcess, keepProcess, lastWords } from "./keeper.ts";
import { endLeftovers } from "./leftovers.ts";

/** A sentence for a person; nothing else needs to be printed. */
export class CannotStart extends Error {
  override readonly name = "CannotStart";
}

export type RunningSystem = {
  readonly url: string;
  readonly client: Client;
  readonly controlPlane: KeptProcess;
  readonly agent: KeptProcess;
  pids(): number[];
  stop(): Promise<void>;
};

/** The first start makes a database; on a slow disk that takes a while. */
const readyMs = 90_000;
const onlineMs = 60_000;
/** A token is used within seconds of its making; what is left of it is worth nothing soon after. */
const tokenTtlSeconds = 600;

export type SystemOptions = {
  readonly dataDir: string;
  /** HTTP; agents are served on the next port, enrolment on the one after. */
  readonly port: number;
  readonly say: (text: string) => void;
  readonly signal: AbortSignal;
  /** More settings for both processes. */
  readonly env?: NodeJS.ProcessEnv;
  /** After every start of a process, with the pids of all. */
  readonly onStarted?: (pids: readonly number[]) => void;
};

export const startSystem = async (options: SystemOptions): Promise<RunningSystem> => {
  const { dataDir, port, signal } = options;
  const agentDir = join(dataDir, "agent");
  const logs = join(dataDir, "logs");
  const url = `http://127.0.0.1:${port}`;
  const client = createClient(url, signal);
  const kept: KeptProcess[] = [];
  const pids = () => kept.map((process) => process.pid()).filter((pid) => pid !== undefined);
  const stop = async () => {
    for (const process of [...kept].reverse()) await process.stop();
    await endLeftovers(agentDir);
  };
  const keep = async (name: string, main: string, env: () => Promise<NodeJS.ProcessEnv>) => {
    const process = await keepProcess({
      name,
      args: [join(repositoryRoot(), main)],
      cwd: dataDir,
      env,
      logFile: join(logs, `${name}.log`),
      onRestart: options.say,
      onStarted: () => options.onStarted?.(pids()),
    });
    kept.push(process);
    options.onStarted?.(pids());
    return process;
  };

  await Promise.all([logs, agentDir].map((folder) => mkdir(folder, { recursive: true, mode: 0o700 })));
  await checkPorts(port);
  await endLeftovers(agentDir);
  const common = environment(options.env);
  try {
    const controlPlane = await keep("control-plane", "control-plane/src/main.ts", async () => ({
      ...common,
      RENDERPLANE_DATA_DIR: join(dataDir, "control-plane"),
      RENDERPLANE_LISTEN: `127.0.0.1:${port}`,
      RENDERPLANE_GRPC_LISTEN: `127.0.0.1:${port + 1}`,
      RENDERPLANE_ENROL_LISTEN: `127.0.0.1:${port + 2}`,
    }));
    await untilTrue(() => isReady(client), controlPlane, join(logs, "control-plane.log"), readyMs, signal);
    const tokenFile = join(dataDir, "join-token");
    const agent = await keep("agent", "agent/src/start.js", async () => ({
      ...common,
      RENDERPLANE_AGENT_DIR: agentDir,
      RENDERPLANE_ENROL_ADDRESS: `127.0.0.1:${port + 2}`,
      RENDERPLANE_SESSION_ADDRESS: `127.0.0.1:${port + 1}`,
      ...(await joinToken(client, agentDir, tokenFile)),
    }));
    await untilTrue(() => isOnline(client), agent, join(logs, "agent.log"), onlineMs, signal);
    await rm(tokenFile, { force: true });
    return { url, client, controlPlane, agent, pids, stop };
  } catch (error) {
    await stop();
    throw error;
  }
};

/** The caller's environment without other people's databases. */
const environment = (more: NodeJS.ProcessEnv = {}): NodeJS.ProcessEnv => {
  const dropped = /^(DATABASE_URL|REDIS_URL|TEST_DATABASE_URL|TEST_REDIS_URL)(_FILE)?$/;
  return { ...Object.fromEntries(Object.entries(process.env).filter(([name]) => !dropped.test(name))), ...more };
};

/**
 * A one-time token, in a file that only this user reads; nothing when the agent has its certificate. A token that may have
 * been used in an enrolment whose answer was lost is given again: the control plane repeats its answer to the same key.
 */
const joinToken = async (client: Client, agentDir: string, file: string): Promise<NodeJS.ProcessEnv> => {
  if (existsSync(identityPath(agentDir))) return {};
  const kept = await stat(file).catch(() => undefined);
  if (!kept || Date.now() - kept.mtimeMs > tokenTtlSeconds * 1000) {
    const wish = { ttl_seconds: tokenTtlSeconds, max_uses: 1 };
    const { token } = await client.post<EnrollmentJson>("/api/v1/enrollments", wish);
    await writeFile(file, token, { mode: 0o600 });
  }
  return { RENDERPLANE_JOIN_TOKEN_FILE: file };
};

const isReady = async (client: Client): Promise<boolean> => {
  await client.get("/readyz");
  return true;
};

const isOnline = async (client: Client): Promise<boolean> => {
  const { items } = await client.get<Page<HostJson>>("/api/v1/hosts");
  return items.some((host) => host.presence === "online");
};

/** Waits, but not for a process that ended by itself with an exit code: what is wrong then is not mended by a restart. */
const untilTrue = async (
  condition: () => Promise<boolean>,
  process: KeptProcess,
  log: string,
  limitMs: number,
  signal: AbortSignal,
): Promise<void> => {
  const end = performance.now() + limitMs;
  while (!(await condition().catch(() => false))) {
    signal.throwIfAborted();
    const { last } = process.ends();
    const hasGivenUp = last.includes("exit code");
    if (hasGivenUp || performance.now() > end) {
      const why = hasGivenUp ? last : `was not ready after ${limitMs / 1000} s`;
      throw new CannotStart(`The ${process.name} ${why}. Its last words (${log}):\n${await lastWords(log)}`);
    }
    await pause(50, undefined, { signal });
  }
};

const checkPorts = async (port: number): Promise<void> => {
  for (const number of [port, port + 1, port + 2]) {
    const probe = createServer();
    await new Promise<void>((resolve, reject) => {
      probe.once("error", (error: NodeJS.ErrnoException) => {
        const why = error.code === "EADDRINUSE" ? "is in use by another program" : `cannot be used (${error.code})`;
        reject(new CannotStart(`Port ${number} of 127.0.0.1 ${why}. Choose three others with --port N (N, N+1, N+2).`));
      });
      probe.listen(number, "127.0.0.1", () => probe.close(() => resolve()));
    });
  }
};
