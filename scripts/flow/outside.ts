// The outside servers of a story, PostgreSQL and Redis: each can be stopped (in order or at once), started again on its port and
// data, and frozen with SIGSTOP, which is what a hung server looks like from outside.
import { mkdir, readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { startPostgres } from "../backends/postgres.ts";
import { startRedis } from "../backends/redis.ts";

export type OutsideServer = {
  readonly url: string;
  /** SIGINT is PostgreSQL's fast, SIGQUIT its immediate shutdown; SIGKILL a crash. */
  stop(signal?: NodeJS.Signals): Promise<void>;
  /** On the same port; PostgreSQL on the same data, Redis empty. */
  start(): Promise<void>;
  /** Stops every process of the server: connections stay open and nothing answers. */
  freeze(): Promise<void>;
  thaw(): Promise<void>;
};

export const startOutside = async (kind: "postgres" | "redis", folder: string): Promise<OutsideServer> => {
  await mkdir(folder, { recursive: true });
  const begin = kind === "postgres" ? startPostgres : startRedis;
  let server: Awaited<ReturnType<typeof begin>> | undefined = await begin(folder);
  const { url } = server;
  let frozen: number[] = [];
  const thaw = async () => {
    for (const pid of frozen.splice(0)) signal(pid, "SIGCONT");
  };
  return {
    url,
    stop: async (how) => {
      const old = server;
      server = undefined;
      const gone = old?.stop(how);
      await thaw();
      await gone;
    },
    start: async () => {
      server ??= await begin(folder, Number(new URL(url).port));
    },
    freeze: async () => {
      if (!server) throw new Error(`${kind} does not run`);
      // The parent first, so that it starts no process that would be missed.
      signal(server.pid, "SIGSTOP");
      frozen = [server.pid, ...(await childrenOf(server.pid))];
      for (const pid of frozen) signal(pid, "SIGSTOP");
    },
    thaw,
  };
};

/** Outside servers keep nothing in the story's folder but their own data, so one folder a server is enough. */
export const outsideFolder = (dir: string, kind: "postgres" | "redis"): string => join(dir, "outside", kind);

const childrenOf = async (parent: number): Promise<number[]> => {
  const found: number[] = [];
  for (const entry of await readdir("/proc")) {
    if (!/^\d+$/.test(entry)) continue;
    const status = await readFile(`/proc/${entry}/status`, "utf8").catch(() => "");
    if (new RegExp(`^PPid:\\t${parent}$`, "m").test(status)) found.push(Number(entry));
  }
  return found;
};

/** One that has ended meanwhile needs no signal. */
const signal = (pid: number, name: NodeJS.Signals): void => {
  try {
    process.kill(pid, name);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
};
