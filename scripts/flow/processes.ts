// The processes of a story: programs of this repository, each under a name, with what they said. A signal goes to one process
// and to nothing that it started. A frozen one (SIGSTOP) is thawed before it is asked to end, or it would never hear it.
import { type ChildProcess, spawn } from "node:child_process";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../../", import.meta.url));
/** A control plane gives itself 40 s; one that needs more is a fault, and the test must end all the same. */
const endMs = 45_000;

export type Processes = {
  launch(name: string, program: string, env: NodeJS.ProcessEnv): ChildProcess;
  isAlive(name: string): boolean;
  isFrozen(name: string): boolean;
  pid(name: string): number;
  /** Resolves when the process is gone. */
  end(name: string, signal: NodeJS.Signals): Promise<void>;
  /** The exit code of one that has ended by itself or by a signal that it answered. */
  exitCode(name: string): number | null;
  /** SIGSTOP: it keeps its sockets and its locks, and does nothing. */
  freeze(name: string): void;
  thaw(name: string): void;
  said(name: string): string;
  names(): string[];
};

export const createProcesses = (home: string): Processes => {
  const children = new Map<string, ChildProcess>();
  const logs = new Map<string, string[]>();
  const frozen = new Set<string>();
  const isAlive = (name: string) => {
    const child = children.get(name);
    return child?.pid !== undefined && child.exitCode === null && child.signalCode === null;
  };
  const living = (name: string): ChildProcess => {
    const child = children.get(name);
    if (!child || !isAlive(name)) throw new Error(`${name} does not run`);
    return child;
  };
  const thaw = (name: string) => {
    if (frozen.delete(name) && isAlive(name)) living(name).kill("SIGCONT");
  };
  return {
    launch: (name, program, env) => {
      if (isAlive(name)) throw new Error(`${name} runs already`);
      const child = spawn(process.execPath, [join(root, program)], {
        env: { PATH: process.env.PATH, HOME: home, LOG_LEVEL: "info", ...env },
        stdio: ["ignore", "pipe", "pipe"],
      });
      const lines = logs.get(name) ?? [];
      logs.set(name, lines);
      for (const stream of [child.stdout, child.stderr])
        stream.on("data", (chunk: Buffer) => lines.push(chunk.toString()));
      children.set(name, child);
      return child;
    },
    isAlive,
    isFrozen: (name) => frozen.has(name),
    pid: (name) => living(name).pid as number,
    end: async (name, signal) => {
      if (!isAlive(name)) return;
      const child = living(name);
      const gone = new Promise((resolve) => child.once("exit", resolve));
      child.kill(signal);
      thaw(name);
      const late = setTimeout(() => child.kill("SIGKILL"), endMs);
      await gone;
      clearTimeout(late);
      frozen.delete(name);
    },
    exitCode: (name) => children.get(name)?.exitCode ?? null,
    freeze: (name) => {
      living(name).kill("SIGSTOP");
      frozen.add(name);
    },
    thaw,
    said: (name) => (logs.get(name) ?? []).join(""),
    names: () => [...children.keys()],
  };
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
