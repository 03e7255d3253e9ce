// NVIDIA GPUs as nvidia-smi tells them: who they are, how busy they are. Whether one can encode is a canary's answer, not this file's.
// A wedged driver hangs nvidia-smi in the kernel where no signal reaches it, so nothing here ever waits for its end.
// Every cell may be text ([N/A], [GPU requires reset]); a number that is none is null, never zero.
import { type ChildProcess, spawn } from "node:child_process";

export type GpuState = {
  readonly uuid: string;
  readonly name: string;
  readonly driverVersion: string;
  readonly memoryBytes: number | null;
  readonly memoryUsedBytes: number | null;
  /** 0..1. */
  readonly used: number | null;
  readonly encoderUsed: number | null;
  readonly temperatureCelsius: number | null;
  readonly powerWatts: number | null;
  readonly isMig: boolean;
};

/** `fault` explains an empty or incomplete list: the driver is broken or silent. No NVIDIA software at all is no fault. */
export type GpuReading = { readonly gpus: readonly GpuState[]; readonly fault: string | undefined };

/** A healthy answer takes 0.1 s, 2 s after idle without persistence mode. */
const answerLimitMs = 5_000;
const maxAnswerBytes = 256 * 1024;
const fields = [
  "uuid",
  "name",
  "driver_version",
  "memory.total",
  "memory.used",
  "utilization.gpu",
  "utilization.encoder",
  "temperature.gpu",
  "power.draw",
  "mig.mode.current",
] as const;
type Field = (typeof fields)[number];
const mib = 1024 * 1024;

/**
 * For asking again and again: one nvidia-smi at a time, and none while an earlier one has not ended. A host with a wedged driver
 * would otherwise gain a process that nobody can kill with every heartbeat.
 */
export const createGpuReader = (
  nvidiaSmi: string,
  limitMs = answerLimitMs,
  living: Set<ChildProcess> = new Set(),
): (() => Promise<GpuReading>) => {
  let asking: Promise<GpuReading> | undefined;
  return () => {
    if (asking) return asking;
    if (living.size > 0)
      return Promise.resolve({ gpus: [], fault: "an earlier nvidia-smi has not ended; the driver hangs" });
    asking = readGpus(nvidiaSmi, limitMs, living).finally(() => {
      asking = undefined;
    });
    return asking;
  };
};

/** `living` holds what was started and has not ended. */
export const readGpus = async (
  nvidiaSmi = "nvidia-smi",
  limitMs = answerLimitMs,
  living: Set<ChildProcess> = new Set(),
): Promise<GpuReading> => {
  let asked: readonly Field[] = fields;
  // One field that the driver does not know fails the whole query; each round drops one, so the loop ends.
  while (asked.length > 0) {
    const query = [`--query-gpu=${asked.join(",")}`, "--format=csv,noheader,nounits"];
    const answer = await ask(nvidiaSmi, query, limitMs, living);
    if (answer.missing) return { gpus: [], fault: undefined };
    if (answer.timedOut) return { gpus: [], fault: `nvidia-smi did not answer in ${limitMs / 1000} s` };
    const unknown = /Field "([^"]+)" is not a valid field/.exec(answer.text)?.[1];
    if (answer.exitCode !== 0 && unknown !== undefined && asked.some((field) => field === unknown)) {
      asked = asked.filter((field) => field !== unknown);
      continue;
    }
    return parseGpus(answer.text, asked, answer.exitCode);
  }
  return { gpus: [], fault: "nvidia-smi knows none of the fields" };
};

/** A row with another number of cells is refused (a comma in a name); its GPU is left out and told as a fault. */
export const parseGpus = (text: string, asked: readonly Field[], exitCode: number | null): GpuReading => {
  const gpus: GpuState[] = [];
  const faults: string[] = [];
  for (const line of text.split("\n").map((row) => row.trim())) {
    if (line === "" || line === "No devices were found") continue;
    const cells = line.split(", ");
    const cell = (field: Field): string => cells[asked.indexOf(field)]?.trim() ?? "";
    if (cells.length !== asked.length || !/^(GPU|MIG)-/.test(cell("uuid"))) {
      faults.push(line.slice(0, 200));
      continue;
    }
    if (/requires reset|is lost/i.test(line)) {
      faults.push(`${cell("uuid")}: ${line.slice(0, 200)}`);
      continue;
    }
    const number = (field: Field, scale: number): number | null => {
      const raw = cell(field);
      const value = raw === "" ? Number.NaN : Number(raw);
      return Number.isFinite(value) ? value * scale : null;
    };
    gpus.push({
      uuid: cell("uuid"),
      name: cell("name"),
      driverVersion: cell("driver_version"),
      memoryBytes: number("memory.total", mib),
      memoryUsedBytes: number("memory.used", mib),
      used: number("utilization.gpu", 0.01),
      encoderUsed: number("utilization.encoder", 0.01),
      temperatureCelsius: number("temperature.gpu", 1),
      powerWatts: number("power.draw", 1),
      isMig: cell("mig.mode.current") === "Enabled",
    });
  }
  if (exitCode !== 0 && faults.length === 0) faults.push(`nvidia-smi ended with ${exitCode ?? "a signal"}`);
  return { gpus, fault: faults.length === 0 ? undefined : faults.join("; ").slice(0, 500) };
};

type Answer = {
  readonly missing: boolean;
  readonly timedOut: boolean;
  readonly exitCode: number | null;
  readonly text: string;
};

/** Answers at the end of the program or at the limit, whichever is first; a program that cannot be killed is left behind. */
const ask = (program: string, args: readonly string[], limitMs: number, living: Set<ChildProcess>): Promise<Answer> =>
  new Promise((resolve) => {
    const child = spawn(program, [...args], {
      stdio: ["ignore", "pipe", "pipe"],
      env: { PATH: process.env.PATH ?? "", LC_ALL: "C" },
    });
    living.add(child);
    child.once("exit", () => living.delete(child));
    let text = "";
    const end = (answer: Omit<Answer, "text">) => {
      clearTimeout(timer);
      child.stdout.destroy();
      child.stderr.destroy();
      child.unref();
      resolve({ ...answer, text });
    };
    const timer = setTimeout(() => {
      child.kill("SIGKILL");
      end({ missing: false, timedOut: true, exitCode: null });
    }, limitMs);
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding("utf8");
      stream.on("data", (piece: string) => {
        if (text.length < maxAnswerBytes) text += piece;
      });
    }
    child.on("error", () => {
      // Without a pid it never was there; an error of a signal says nothing about its end.
      if (child.pid === undefined) living.delete(child);
      end({ missing: true, timedOut: false, exitCode: null });
    });
    child.on("close", (exitCode) => end({ missing: false, timedOut: false, exitCode }));
  });
