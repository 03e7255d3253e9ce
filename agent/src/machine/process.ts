// Runs one program as a durable step: a folder with its stdin, output, progress, identity and exit, and a shim that owns it.
// The same call starts the step, adopts it while it runs, or answers from disk when it has ended; the folder decides which.
// Leaves to others: what an exit means (domain/exit), which arguments are planned (stages/), when work must stop (work/).
// Keeps: a step is started at most once, and nothing is signalled whose start time was not compared.
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, renameSync, statSync, watch, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import type { StepExit, StepOutcome, StepSignals, StepSpec } from "../domain/step.ts";
import { bootClockMs, isAlive, type ProcessIdentity, readBootId, readStat, signalSession } from "./proc.ts";

/** Every process of an attempt carries this; the value is the attempt's folder, unique on the host. */
export const markerName = "RENDERPLANE_ATTEMPT";

/** Two looks a second: the rate of progress messages, and cheap (five small reads). The exit itself is seen at once by a watch. */
const samplePeriodMs = 500;
/** A shim writes its identity within milliseconds of its start; an empty file older than this has no shim behind it. */
const shimStartMs = 3_000;
/** The shim writes the exit within milliseconds of the end of its program. */
const exitWriteMs = 2_000;
/** Output of one step; a program that writes more is ended, because its log would fill the disk for everybody. */
const maxOutputBytes = 256 * 1024 ** 2;
const shimPath = fileURLToPath(new URL("./step-shim.sh", import.meta.url));

export const runStep = async (spec: StepSpec, signals: StepSignals): Promise<StepOutcome> => {
  if (signals.detach.aborted) return { kind: "detached" };
  if (signals.stop.aborted && !existsSync(spec.dir)) return { kind: "stopped" };
  mkdirSync(spec.dir, { recursive: true, mode: 0o700 });
  const wake = createWake();
  const unlisten = wakeOn(wake.ring, signals, spec.dir);
  const boot = readBootId();
  const stall = createStallWatch(spec);
  const beganMs = bootClockMs();
  try {
    if (readExit(spec.dir) === undefined && !existsSync(join(spec.dir, "shim.json"))) startShim(spec, wake.ring);
    for (;;) {
      const exit = readExit(spec.dir);
      if (exit) {
        signals.onSample?.();
        return { kind: "ended", exit };
      }
      if (signals.detach.aborted) return { kind: "detached" };
      if (signals.stop.aborted) {
        await endStep(spec, boot);
        return { kind: "stopped" };
      }
      const shim = readIdentity(spec.dir, "shim.json");
      const isGone = shim ? !isAlive(shim, boot) : bootClockMs() - beganMs > shimStartMs;
      if (isGone) {
        // It may have written its last word between the two reads.
        const last = readExit(spec.dir);
        if (last) continue;
        await endStep(spec, boot);
        return { kind: "lost" };
      }
      const trouble = stall(boot);
      if (trouble) {
        await endStep(spec, boot);
        return trouble;
      }
      signals.onSample?.();
      await wake.wait(samplePeriodMs);
    }
  } finally {
    unlisten();
  }
};

/** A shell knows only 128 + n; codes that no signal has (FFmpeg 7 ends with 256 - errno) stay codes. */
const signalNames: { readonly [status: number]: NodeJS.Signals } = {
  129: "SIGHUP",
  130: "SIGINT",
  131: "SIGQUIT",
  132: "SIGILL",
  134: "SIGABRT",
  135: "SIGBUS",
  136: "SIGFPE",
  137: "SIGKILL",
  139: "SIGSEGV",
  141: "SIGPIPE",
  143: "SIGTERM",
  152: "SIGXCPU",
  153: "SIGXFSZ",
};

export const readExit = (dir: string): StepExit | undefined => {
  const fields = readJson(join(dir, "exit.json"));
  if (fields === undefined || typeof fields.status !== "number" || typeof fields.elapsedMs !== "number")
    return undefined;
  const signal = signalNames[fields.status] ?? null;
  return {
    exitCode: signal === null ? fields.status : null,
    signal,
    elapsedMs: fields.elapsedMs,
    endedBy: fields.endedBy === "lease" || fields.endedBy === "runtime" ? fields.endedBy : "",
  };
};

const readIdentity = (dir: string, name: "shim.json" | "run.json"): ProcessIdentity | undefined => {
  const fields = readJson(join(dir, name));
  if (typeof fields?.pid !== "number" || typeof fields.start !== "string" || typeof fields.boot !== "string")
    return undefined;
  // 0 and 1 would address this process's own group and everything else.
  if (!Number.isInteger(fields.pid) || fields.pid < 2) return undefined;
  return { pid: fields.pid, start: fields.start, boot: fields.boot };
};

/** Half-written, empty and missing files read the same: not there yet. */
const readJson = (path: string): { readonly [key: string]: unknown } | undefined => {
  try {
    const value: unknown = JSON.parse(readFileSync(path, "utf8"));
    return typeof value === "object" && value !== null ? { ...value } : undefined;
  } catch {
    return undefined;
  }
};

const startShim = (spec: StepSpec, onExit: () => void): void => {
  // By name: if a shim was started that has not said so yet, its program goes on reading the file that it has open.
  writeFileSync(join(spec.dir, "stdin.new"), spec.stdin, { mode: 0o600 });
  renameSync(join(spec.dir, "stdin.new"), join(spec.dir, "stdin"));
  writeFileSync(
    join(spec.dir, "process.json"),
    JSON.stringify({ command: spec.command, cwd: spec.cwd, env: spec.env }),
  );
  const hundredths = (ms: number) => String(Math.max(1, Math.round(ms / 10)));
  // Looks often enough that the switch is at most a quarter late; five seconds in production.
  const periodMs = Math.min(5_000, Math.max(100, Math.min(spec.leaseLimitMs, spec.runtimeMs) / 4));
  const child: ChildProcess = spawn(
    "/bin/sh",
    [
      shimPath,
      spec.dir,
      spec.leaseFile,
      hundredths(spec.leaseLimitMs),
      hundredths(spec.runtimeMs),
      hundredths(spec.killAfterMs),
      String(periodMs / 1000),
      ...spec.command,
    ],
    // No pipe to the agent: an unread pipe hangs FFmpeg, and a dead reader loses its words.
    { cwd: spec.cwd, env: { ...spec.env, [markerName]: spec.marker }, detached: true, stdio: "ignore" },
  );
  child.once("error", onExit);
  child.once("exit", onExit);
  child.unref();
};

/** TERM to the program's session, KILL after the grace; answers when the program is gone. */
const endStep = async (spec: StepSpec, boot: string): Promise<void> => {
  const isOver = () => readExit(spec.dir) !== undefined;
  // The instant between the shim's start and its child's: wait for the name of what is to be ended.
  const startsBy = bootClockMs() + 1_000;
  const shim = () => readIdentity(spec.dir, "shim.json");
  while (!existsSync(join(spec.dir, "run.json")) && bootClockMs() < startsBy) {
    const started = shim();
    if (started && !isAlive(started, boot)) break;
    await pause(10);
  }
  const child = readIdentity(spec.dir, "run.json");
  if (!child) return;
  signalSession(child, "SIGTERM", boot);
  // A stopped process takes its TERM only when it goes on.
  signalSession(child, "SIGCONT", boot);
  const killAt = bootClockMs() + spec.killAfterMs;
  while (isAlive(child, boot) && bootClockMs() < killAt) await pause(15);
  signalSession(child, "SIGKILL", boot);
  const goneBy = bootClockMs() + exitWriteMs;
  while (!isOver() && bootClockMs() < goneBy) {
    const owner = shim();
    if (!isAlive(child, boot) && (!owner || !isAlive(owner, boot))) return;
    await pause(10);
  }
};

/** Quiet means: no byte of output, no progress, no CPU time. Time is counted in looks, so a suspended host is no stall. */
const createStallWatch = (spec: StepSpec) => {
  let seen = "";
  let quietMs = 0;
  let lookedMs = bootClockMs();
  return (boot: string): Extract<StepOutcome, { kind: "stalled" | "flooded" }> | undefined => {
    const sizes = ["stdout", "stderr", "progress"].map((name) => sizeOf(join(spec.dir, name)));
    const bytes = Math.max(...sizes);
    if (bytes > maxOutputBytes) return { kind: "flooded", bytes };
    const child = readIdentity(spec.dir, "run.json");
    const ticks = child && child.boot === boot ? (readStat(child.pid)?.cpuTicks ?? 0) : 0;
    const signature = `${sizes.join()}:${ticks}`;
    const now = bootClockMs();
    quietMs = signature === seen ? quietMs + Math.min(now - lookedMs, 2 * samplePeriodMs) : 0;
    seen = signature;
    lookedMs = now;
    return quietMs >= spec.stallMs ? { kind: "stalled", quietMs } : undefined;
  };
};

const sizeOf = (path: string): number => statSync(path, { throwIfNoEntry: false })?.size ?? 0;

/** The watch is an accelerator: where the kernel has no more watches to give, the looks alone find the exit. */
const wakeOn = (ring: () => void, signals: StepSignals, dir: string): (() => void) => {
  signals.stop.addEventListener("abort", ring);
  signals.detach.addEventListener("abort", ring);
  let close = () => {};
  try {
    const watcher = watch(dir, { persistent: false }, (_event, name) => {
      if (name === "exit.json") ring();
    });
    watcher.on("error", () => {});
    close = () => watcher.close();
  } catch {
    // ENOSPC or EMFILE from inotify.
  }
  return () => {
    signals.stop.removeEventListener("abort", ring);
    signals.detach.removeEventListener("abort", ring);
    close();
  };
};

const createWake = () => {
  let isRung = false;
  let release: (() => void) | undefined;
  return {
    ring: () => {
      isRung = true;
      release?.();
    },
    wait: async (ms: number): Promise<void> => {
      if (!isRung) {
        await new Promise<void>((resolve) => {
          const timer = setTimeout(resolve, ms);
          release = () => {
            clearTimeout(timer);
            resolve();
          };
        });
        release = undefined;
      }
      isRung = false;
    },
  };
};
