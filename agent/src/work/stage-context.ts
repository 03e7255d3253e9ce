// The StageContext of one attempt: what a stage may do, made durable in the attempt's folder. Knows programs, their global
// flags and the environment they get; leaves arguments and the meaning of an exit to the stages.
// Keeps: a step or act that was finished before answers from disk; no program inherits anything from the agent.
import { accessSync, constants, statSync } from "node:fs";
import { delimiter, isAbsolute, join } from "node:path";
import type { Inventory } from "@renderplane/proto/gen/renderplane/v1/types.ts";
import type { Logger } from "@renderplane/proto/kernel/process/logger.ts";
import type { StepOutcome } from "../domain/step.ts";
import type { ArtifactCache } from "./cache.ts";
import {
  type InputFile,
  type ProcessEnd,
  type ProcessSpec,
  type Program,
  type StageContext,
  StageFailure,
} from "./contract.ts";
import type { AttemptFolder, Spec } from "./folder.ts";
import type { Host } from "./host.ts";
import { boundedText, progressFollower } from "./step-output.ts";

/** Path or name of each program; a name is looked up in PATH at each start, so an installation needs no restart. */
export type Programs = { readonly [program in Program]: string };

/** The shim's own limits lie behind the agent's, so that with a living agent the agent decides and explains. */
const shimSlackMs = 5_000;
const defaultStallMs = 60_000;
const stepNamePattern = /^[a-z0-9][a-z0-9._-]{0,59}$/;
const childPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/** Thrown into a stage whose process goes on without this agent. Never reported. */
export class Detached extends Error {
  override readonly name = "Detached";
}
/** The dead-man switch ended the program: nobody renewed the lease. Says nothing against the work. */
export class LeaseEnded extends Error {
  override readonly name = "LeaseEnded";
}

export type ContextOptions = {
  readonly host: Host;
  readonly spec: Spec;
  readonly folder: AttemptFolder;
  readonly inputs: readonly InputFile[];
  readonly inventory: Inventory;
  readonly programs: Programs;
  /** The host's; without one there is nothing to release. */
  readonly cache: Pick<ArtifactCache, "release">;
  readonly stop: AbortSignal;
  readonly detach: AbortSignal;
  /** Monotonic time at which the stage's limit is used up. */
  readonly endsAtMs: number;
  readonly leaseLimitMs: number;
  readonly killAfterMs: number;
  readonly progress: StageContext["progress"];
  readonly usage: StageContext["usage"];
  readonly log: Logger;
};

export const createStageContext = (options: ContextOptions): StageContext => {
  const { folder, spec } = options;
  const { offer } = spec;
  const gpuUuid = offer.allocation?.gpuUuid ?? "";
  const named = new Set<string>();
  const begin = (name: string) => {
    if (options.detach.aborted) throw new Detached("the agent is stopping");
    options.stop.throwIfAborted();
    if (!stepNamePattern.test(name))
      throw new StageFailure("agent_bug", `the step name ${JSON.stringify(name)} is not accepted`);
    // Two steps of one name would answer for each other after a restart.
    if (named.has(name)) throw new StageFailure("agent_bug", `the step name ${name} is used twice`);
    named.add(name);
  };

  const runProcess = async (name: string, process: ProcessSpec): Promise<ProcessEnd> => {
    begin(name);
    const dir = folder.stepDir(name);
    const command = [programPath(options.programs, process.program), ...globalFlags(process, dir), ...process.args];
    const read =
      process.progress &&
      progressFollower(join(dir, "progress"), process.progress, options.host.nowMs, options.progress);
    const outcome = await options.host.runStep(
      {
        dir,
        cwd: folder.workDir,
        command,
        stdin: process.stdin ?? "",
        marker: folder.root,
        env: childEnvironment(folder, gpuUuid),
        leaseFile: folder.leaseFile,
        leaseLimitMs: options.leaseLimitMs,
        runtimeMs: Math.max(0, options.endsAtMs - options.host.nowMs()) + shimSlackMs,
        killAfterMs: options.killAfterMs,
        stallMs: process.stallMs ?? defaultStallMs,
      },
      { stop: options.stop, detach: options.detach, ...(read ? { onSample: read } : {}) },
    );
    return endOf(outcome, dir, name, options.stop);
  };

  return {
    jobId: offer.jobId,
    stage: offer.stage,
    params: JSON.parse(offer.params || "{}"),
    request: JSON.parse(offer.request || "{}"),
    results: JSON.parse(offer.results || "{}"),
    inputs: options.inputs,
    dir: folder.workDir,
    threads: Math.max(1, Math.floor(offer.allocation?.cores ?? 1)),
    gpuUuid,
    inventory: options.inventory,
    signal: AbortSignal.any([options.stop, options.detach]),
    log: options.log,
    process: runProcess,
    once: async (name, act) => {
      begin(name);
      const known = folder.readOnce(name);
      if (known !== undefined) return JSON.parse(known);
      const json = JSON.stringify(await act()) ?? "null";
      folder.writeOnce(name, json);
      return JSON.parse(json);
    },
    progress: options.progress,
    usage: options.usage,
    release: (sha256s) => options.cache.release(sha256s),
  };
};

/** Explicit and minimal: no keys, no proxies (FFmpeg obeys them), no FFREPORT (it writes where it says). */
const childEnvironment = (folder: AttemptFolder, gpuUuid: string): Record<string, string> => ({
  PATH: childPath,
  HOME: folder.workDir,
  LC_ALL: "C.UTF-8",
  ...(gpuUuid === "" ? {} : { CUDA_VISIBLE_DEVICES: gpuUuid }),
});

const globalFlags = (spec: ProcessSpec, dir: string): string[] =>
  spec.program !== "ffmpeg"
    ? []
    : [
        ...["-hide_banner", "-nostdin", "-nostats", "-y"],
        ...(spec.progress ? ["-stats_period", "0.5", "-progress", `file:${join(dir, "progress")}`] : []),
      ];

/** Debian package, environment setting. */
const programFacts: { readonly [program in Program]: readonly [string, string] } = {
  ffmpeg: ["ffmpeg", "FFMPEG_PATH"],
  ffprobe: ["ffmpeg", "FFPROBE_PATH"],
  "espeak-ng": ["espeak-ng", "ESPEAK_PATH"],
};

const programPath = (programs: Programs, program: Program): string => {
  const name = programs[program];
  const folders = isAbsolute(name) ? [""] : (process.env.PATH ?? childPath).split(delimiter);
  for (const folder of folders) {
    const path = join(folder, name);
    try {
      accessSync(path, constants.X_OK);
      if (statSync(path).isFile()) return path;
    } catch {
      // Not here.
    }
  }
  const [debianPackage, setting] = programFacts[program];
  throw new StageFailure(
    "missing_program",
    `${program} was not found as ${name}. Install it (apt-get install ${debianPackage}) or set ${setting} to its path.`,
  );
};

const endOf = (outcome: StepOutcome, dir: string, name: string, stop: AbortSignal): ProcessEnd => {
  const [stdoutPath, stderrPath] = [join(dir, "stdout"), join(dir, "stderr")];
  const evidence = () => ({ evidence: boundedText(stderrPath) });
  switch (outcome.kind) {
    case "ended": {
      const { exitCode, signal, elapsedMs, endedBy } = outcome.exit;
      if (endedBy === "lease") throw new LeaseEnded(`the lease ran out while ${name} was running`);
      if (endedBy === "runtime")
        throw new StageFailure(
          "timeout",
          `${name} was still running at the stage's time limit and was ended`,
          evidence(),
        );
      const [stdout, stderr] = [boundedText(stdoutPath), boundedText(stderrPath)];
      return { exitCode, signal, stdout, stderr, stdoutPath, stderrPath, elapsedMs };
    }
    case "stopped":
      throw stop.reason;
    case "detached":
      throw new Detached("the agent is stopping");
    case "stalled":
      throw new StageFailure(
        "stalled",
        `${name} made no progress, wrote nothing and used no CPU for ${Math.round(outcome.quietMs / 1000)} s and was ended`,
        evidence(),
      );
    case "flooded":
      throw new StageFailure("output_invalid", `${name} wrote ${outcome.bytes} bytes of log and was ended`, evidence());
    case "lost":
      throw new StageFailure("killed", `${name} was killed from outside together with its supervising shim`, {
        ...evidence(),
        exit: "SIGKILL",
      });
  }
};
