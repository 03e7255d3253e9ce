// Keeps one process of the system running, as systemd would: starts it, writes its output to a log, starts it again when it
// dies, a little later each time. It leads its own process group, so a Ctrl-C reaches only the script and the order of
// stopping stays ours. What the process does, and when it is ready, others know.
import { type ChildProcess, spawn } from "node:child_process";
import { open, readFile, rename, stat } from "node:fs/promises";

export type KeptProcess = {
  readonly name: string;
  pid(): number | undefined;
  /** How often it has ended by itself, and the last end in words. */
  ends(): { readonly count: number; readonly last: string };
  /** TERM, then KILL; does not start again. */
  stop(): Promise<void>;
};

const firstPauseMs = 250;
const longestPauseMs = 10_000;
/** A process that ran this long was well: the pauses begin anew. */
const settledMs = 60_000;
/** A control plane closes its streams and its database in this time. */
const stopMs = 30_000;
/** A larger log is put aside (one old one is kept) when the process starts. */
const largestLogBytes = 20 * 1024 * 1024;

export const keepProcess = async (options: {
  readonly name: string;
  readonly args: readonly string[];
  readonly cwd: string;
  /** Asked at every start: a token is needed once. */
  readonly env: () => Promise<NodeJS.ProcessEnv>;
  readonly logFile: string;
  readonly onRestart: (message: string) => void;
  /** After every start, when the pid is known. */
  readonly onStarted?: (() => void) | undefined;
}): Promise<KeptProcess> => {
  let child: ChildProcess | undefined;
  let isStopping = false;
  let pauseMs = firstPauseMs;
  let timer: NodeJS.Timeout | undefined;
  let count = 0;
  let last = "";

  const start = async () => {
    await putAside(options.logFile);
    const log = await open(options.logFile, "a", 0o600);
    const env = await options.env();
    if (isStopping) return void (await log.close());
    const startedMs = performance.now();
    child = spawn(process.execPath, options.args, {
      cwd: options.cwd,
      env,
      detached: true,
      stdio: ["ignore", log.fd, log.fd],
    });
    child.once("error", (error) => ended(`could not be started: ${error.message}`, startedMs));
    child.once("exit", (code, signal) =>
      ended(signal ? `was ended by ${signal}` : `ended with exit code ${code}`, startedMs),
    );
    await log.close();
    options.onStarted?.();
  };
  const ended = (how: string, startedMs: number) => {
    count++;
    last = how;
    if (isStopping) return;
    if (performance.now() - startedMs > settledMs) pauseMs = firstPauseMs;
    options.onRestart(`${options.name} ${how}; starting it again`);
    timer = setTimeout(() => {
      start().catch((error: unknown) => ended(`could not be started: ${error}`, performance.now()));
    }, pauseMs);
    pauseMs = Math.min(longestPauseMs, pauseMs * 2);
  };

  await start();
  return {
    name: options.name,
    pid: () => (isRunning(child) ? child?.pid : undefined),
    ends: () => ({ count, last }),
    stop: async () => {
      isStopping = true;
      clearTimeout(timer);
      const running = child;
      if (!running || !isRunning(running)) return;
      const gone = new Promise<void>((resolve) => running.once("exit", () => resolve()));
      running.kill("SIGTERM");
      const kill = setTimeout(() => running.kill("SIGKILL"), stopMs);
      await gone;
      clearTimeout(kill);
    },
  };
};

const isRunning = (child: ChildProcess | undefined): boolean =>
  child?.pid !== undefined && child.exitCode === null && child.signalCode === null;

const putAside = async (file: string): Promise<void> => {
  const facts = await stat(file).catch(() => undefined);
  if (facts && facts.size > largestLogBytes) await rename(file, `${file}.1`);
};

/** Lines of a printed stack that say nothing to somebody who only wants to know why it ended. */
const stackLine = /^(at |node:|Node\.js v|throw |\^+$|[{}\]]|code: |requireStack|triggerUncaught|file:\/\/)/;

/** The last words of a log for a person: messages of pino lines from warning up, other lines without their stack. */
export const lastWords = async (file: string): Promise<string> => {
  const text = await readFile(file, "utf8").catch(() => "");
  const lines = text.slice(-16_384).trim().split("\n").map(wordsOf);
  return lines
    .filter((line) => line !== "")
    .slice(-6)
    .join("\n");
};

const wordsOf = (line: string): string => {
  const text = line.trim();
  if (!text.startsWith('{"')) return stackLine.test(text) ? "" : text;
  try {
    const entry = JSON.parse(line) as { level?: number; msg?: string; err?: { message?: string } };
    if ((entry.level ?? 0) < 40) return "";
    return [entry.msg, entry.err?.message].filter((part) => part).join(": ");
  } catch {
    return "";
  }
};
