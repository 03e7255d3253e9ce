// A StageContext for tests of stages: real processes in a temporary folder, everything durable kept in memory.
// It adds the global FFmpeg flags that the agent's runner adds, refuses what the runner refuses, and replays a stage as an
// agent restart would: `again()` is a second context over the same folder and the same finished steps.
import { type ChildProcess, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import {
  closeSync,
  constants,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { constants as osConstants, tmpdir } from "node:os";
import path from "node:path";
import type { Inventory } from "@renderplane/proto/gen/renderplane/v1/types.ts";
import { silentLogger } from "@renderplane/proto/kernel/process/logger.ts";
import type { InputFile, ProcessEnd, ProcessSpec, Program, StageContext } from "../work/contract.ts";

/** Steps become folder names; the runner knows no others. */
const stepNamePattern = /^[a-z0-9][a-z0-9._-]{0,59}$/;
const headBytes = 16 * 1024;
const tailBytes = 256 * 1024;

export type TestUsage = { service: string; provider: string; unit: string; quantity: number };
export type TestProgress = Parameters<StageContext["progress"]>[0];
export type TestStep = { readonly name: string; readonly spec: ProcessSpec; readonly end: ProcessEnd };

export type TestContextOptions = {
  readonly stage?: string;
  readonly jobId?: string;
  readonly params?: unknown;
  readonly request?: unknown;
  readonly results?: { readonly [stage: string]: unknown };
  readonly threads?: number;
  readonly gpuUuid?: string;
  readonly inventory?: Partial<Inventory>;
  readonly signal?: AbortSignal;
  /** The host's cache: bytes by digest. `release` takes from it. */
  readonly cached?: Map<string, number>;
  /** Path of a program, to test a missing or a broken one. */
  readonly programs?: { readonly [program in Program]?: string };
};

export type TestContext = {
  readonly context: StageContext;
  /** Absolute path of the work folder. */
  readonly dir: string;
  /** Processes really started, in the order of their ends; a replayed step is not listed again. */
  readonly steps: TestStep[];
  readonly uses: TestUsage[];
  readonly progress: TestProgress[];
  /** Puts a file among the inputs, from a path or from bytes, under a name on disk that the caller did not choose. */
  addInput(
    stage: string,
    name: string,
    from: { readonly path: string } | { readonly bytes: Buffer | string },
  ): InputFile;
  /** The same attempt after an agent restart: finished steps answer without running. */
  again(): TestContext;
  /** Removes the folder. */
  remove(): void;
};

const testInventory = (over: Partial<Inventory>): Inventory => ({
  hostname: "test-host",
  os: "linux",
  arch: process.arch,
  cpuModel: "test",
  cores: 2,
  memoryBytes: 8n * 1024n ** 3n,
  scratchBytes: 10n * 1024n ** 3n,
  gpus: [],
  ffmpegVersion: "",
  workingEncoders: ["libx264", "aac"],
  stageKinds: [],
  providers: [],
  tags: [],
  ...over,
});

const bounded = (file: string): string => {
  const bytes = readFileSync(file);
  if (bytes.length <= headBytes + tailBytes) return bytes.toString("utf8");
  return `${bytes.subarray(0, headBytes).toString("utf8")}\n…\n${bytes.subarray(-tailBytes).toString("utf8")}`;
};

const endOf = (child: ChildProcess): Promise<{ exitCode: number | null; signal: string | null; missing: boolean }> =>
  new Promise((resolve) => {
    child.once("error", () => resolve({ exitCode: 127, signal: null, missing: true }));
    child.once("exit", (exitCode, signal) => resolve({ exitCode, signal, missing: false }));
  });

/** Only for files that a test may write once: copies share blocks where the file system can. */
const place = (target: string, from: { readonly path: string } | { readonly bytes: Buffer | string }): void => {
  mkdirSync(path.dirname(target), { recursive: true });
  if ("path" in from) copyFileSync(from.path, target, constants.COPYFILE_FICLONE);
  else writeFileSync(target, from.bytes);
};

type Memory = {
  readonly root: string;
  readonly steps: TestStep[];
  readonly once: Map<string, string>;
  readonly inputs: InputFile[];
};

export const createTestContext = (options: TestContextOptions = {}): TestContext =>
  contextOver(options, {
    root: mkdtempSync(path.join(tmpdir(), "renderplane-stage-")),
    steps: [],
    once: new Map(),
    inputs: [],
  });

const contextOver = (options: TestContextOptions, memory: Memory): TestContext => {
  const dir = path.join(memory.root, "work");
  mkdirSync(dir, { recursive: true });
  const uses: TestUsage[] = [];
  const progress: TestProgress[] = [];
  const signal = options.signal ?? new AbortController().signal;
  const named = new Set<string>();

  const claim = (name: string): void => {
    if (!stepNamePattern.test(name)) throw new Error(`the step name ${JSON.stringify(name)} is not accepted`);
    // Two steps of one name would answer for each other after a restart.
    if (named.has(name)) throw new Error(`the step name ${name} is used twice in one run`);
    named.add(name);
  };

  const run = async (name: string, spec: ProcessSpec): Promise<ProcessEnd> => {
    signal.throwIfAborted();
    claim(name);
    const known = memory.steps.find((step) => step.name === name);
    if (known) {
      if (JSON.stringify(known.spec) !== JSON.stringify(spec))
        throw new Error(`the step ${name} changed in its replay`);
      return known.end;
    }
    const stepDir = path.join(memory.root, "steps", name);
    mkdirSync(stepDir, { recursive: true });
    const [stdinPath, stdoutPath, stderrPath] = ["stdin", "stdout", "stderr"].map((part) => path.join(stepDir, part));
    if (stdinPath === undefined || stdoutPath === undefined || stderrPath === undefined) throw new Error("unreachable");
    writeFileSync(stdinPath, spec.stdin ?? "");
    const files = [openSync(stdinPath, "r"), openSync(stdoutPath, "w"), openSync(stderrPath, "w")];
    const flags = spec.program === "ffmpeg" ? ["-hide_banner", "-nostdin", "-nostats", "-y"] : [];
    const startedAt = performance.now();
    const child = spawn(options.programs?.[spec.program] ?? spec.program, [...flags, ...spec.args], {
      cwd: dir,
      detached: true,
      stdio: files,
      env: { PATH: process.env.PATH ?? "", HOME: dir, LC_ALL: "C.UTF-8" },
    });
    for (const file of files) closeSync(file);
    const stop = (): void => {
      if (child.pid === undefined) return;
      try {
        process.kill(-child.pid, osConstants.signals.SIGKILL);
      } catch {
        // It ended by itself in between.
      }
    };
    signal.addEventListener("abort", stop, { once: true });
    const { exitCode, signal: killedBy } = await endOf(child);
    signal.removeEventListener("abort", stop);
    signal.throwIfAborted();
    const end: ProcessEnd = {
      exitCode,
      signal: killedBy,
      stdout: bounded(stdoutPath),
      stderr: bounded(stderrPath),
      stdoutPath,
      stderrPath,
      elapsedMs: performance.now() - startedAt,
    };
    memory.steps.push({ name, spec, end });
    return end;
  };

  const context: StageContext = {
    jobId: options.jobId ?? "job-test",
    stage: options.stage ?? "stage-test",
    params: options.params ?? {},
    request: options.request ?? {},
    inputs: memory.inputs,
    results: options.results ?? {},
    dir,
    threads: options.threads ?? 2,
    gpuUuid: options.gpuUuid ?? "",
    inventory: testInventory(options.inventory ?? {}),
    signal,
    log: silentLogger(),
    process: run,
    once: async (name, act) => {
      signal.throwIfAborted();
      claim(name);
      const known = memory.once.get(name);
      if (known !== undefined) return JSON.parse(known);
      const text = JSON.stringify(await act()) ?? "null";
      memory.once.set(name, text);
      return JSON.parse(text);
    },
    progress: (update) => void progress.push(update),
    usage: (use) => {
      const same = uses.findIndex(
        (held) => held.service === use.service && held.provider === use.provider && held.unit === use.unit,
      );
      if (same >= 0) uses.splice(same, 1, { ...use });
      else uses.push({ ...use });
    },
    release: async (sha256s) => {
      let freed = 0;
      for (const sha256 of sha256s) {
        freed += options.cached?.get(sha256) ?? 0;
        options.cached?.delete(sha256);
      }
      return freed;
    },
  };

  return {
    context,
    dir,
    steps: memory.steps,
    uses,
    progress,
    addInput: (stage, name, from) => {
      const relative = `inputs/${String(memory.inputs.length).padStart(3, "0")}`;
      const target = path.join(dir, relative);
      place(target, from);
      const bytes = readFileSync(target);
      const input: InputFile = {
        stage,
        name,
        path: relative,
        sha256: createHash("sha256").update(bytes).digest("hex"),
        sizeBytes: bytes.length,
        mediaType: "application/octet-stream",
      };
      memory.inputs.push(input);
      return input;
    },
    again: () => contextOver(options, memory),
    remove: () => rmSync(memory.root, { recursive: true, force: true }),
  };
};
