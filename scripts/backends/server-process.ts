// A server that a test run starts for itself: spawned, waited for, stopped by its pid. Its folder is private and goes with it.
// It leads a process group of its own, so that Ctrl-C reaches this program first and the order of stopping is ours.
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:net";

/** TERM (or the signal a server prefers), then KILL after this long. Nothing of value is lost: the folder is thrown away. */
const stopMs = 5_000;

export type ServerProcess = {
  readonly pid: number;
  /** With the signal that the server prefers, or with another one, e.g. SIGKILL for a crash. */
  stop(signal?: NodeJS.Signals): Promise<void>;
};

export const startServer = async (options: {
  readonly name: string;
  readonly program: string;
  readonly args: readonly string[];
  readonly cwd: string;
  readonly uid?: number;
  readonly gid?: number;
  readonly stopSignal: NodeJS.Signals;
  readonly deadlineMs: number;
  readonly answers: () => Promise<boolean>;
}): Promise<ServerProcess> => {
  const child = spawn(options.program, options.args, {
    cwd: options.cwd,
    detached: true,
    stdio: ["ignore", "pipe", "pipe"],
    ...(options.uid === undefined ? {} : { uid: options.uid }),
    ...(options.gid === undefined ? {} : { gid: options.gid }),
  });
  let tail = "";
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding("utf8").on("data", (text: string) => {
      tail = (tail + text).slice(-4096);
    });
  const failed = new Promise<never>((_, reject) => {
    child.once("error", reject);
    child.once("exit", (code, signal) => reject(new Error(`${options.name} ended with ${signal ?? code}: ${tail}`)));
  });
  failed.catch(() => {});
  const end = performance.now() + options.deadlineMs;
  try {
    while (!(await Promise.race([options.answers(), failed]))) {
      if (performance.now() > end)
        throw new Error(`${options.name} did not answer in ${options.deadlineMs} ms: ${tail}`);
      await Promise.race([new Promise((resolve) => setTimeout(resolve, 50)), failed]);
    }
  } catch (error) {
    await stopChild(child, options.stopSignal);
    throw error;
  }
  return { pid: child.pid ?? 0, stop: (signal = options.stopSignal) => stopChild(child, signal) };
};

const stopChild = async (child: ChildProcess, signal: NodeJS.Signals): Promise<void> => {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  const ended = once(child, "exit");
  child.kill(signal);
  const timer = setTimeout(() => child.kill("SIGKILL"), stopMs);
  await ended;
  clearTimeout(timer);
};

/** A port of 127.0.0.1 that was free a moment ago; servers that take port 0 do not need this. */
export const freePort = async (): Promise<number> => {
  const probe = createServer();
  await new Promise<void>((resolve, reject) => {
    probe.once("error", reject);
    probe.listen(0, "127.0.0.1", resolve);
  });
  const address = probe.address();
  await new Promise((resolve) => probe.close(resolve));
  if (address === null || typeof address === "string") throw new Error("the probe has no port");
  return address.port;
};
