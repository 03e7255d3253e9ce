// One attempt from Start to its end: inputs in, the stage, outputs out, and one CompleteRequest that says how it went.
// Replay-safe: after an agent restart the same call runs again and finds finished steps, inputs and acts in the folder.
// Owns the time limit and the billable compute; when and why to stop is told from outside (supervisor.ts).
// Keeps: when `done` resolves with anything but "detached", no process of the attempt is left.
import { setTimeout as pause } from "node:timers/promises";
import { type CompleteRequest, Outcome } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import type { Artifact, Inventory, Usage } from "@renderplane/proto/gen/renderplane/v1/types.ts";
import { isCode } from "@renderplane/proto/kernel/errors.ts";
import type { FailureClass } from "@renderplane/proto/kernel/failure.ts";
import { maxEvidenceBytes, maxResultBytes } from "@renderplane/proto/kernel/limits.ts";
import type { Logger } from "@renderplane/proto/kernel/process/logger.ts";
import { isDiskFull } from "../domain/errno.ts";
import type { Artifacts } from "./artifacts.ts";
import { createBackoff } from "./backoff.ts";
import type { ArtifactCache } from "./cache.ts";
import { grpcCodeOf } from "./completions.ts";
import { type ControlPlane, type OutputFile, StageFailure, type StageKind } from "./contract.ts";
import type { AttemptFolder, Spec, Started } from "./folder.ts";
import type { Host } from "./host.ts";
import { createProgressSender } from "./progress-sender.ts";
import { createStageContext, Detached, LeaseEnded, type Programs } from "./stage-context.ts";
import { AddressRefused } from "./transfer.ts";

/** Why an attempt is ended from outside; "failed" ends the steps that still run beside the one that failed. */
export type StopCause = "cancelled" | "lease_lost" | "given_back" | "untrusted" | "timeout" | "failed";

export type AttemptEnd =
  | { readonly kind: "result"; readonly request: CompleteRequest }
  /** Not ours any more: nothing is reported. */
  | { readonly kind: "discard" }
  /** Goes on under its shims; a later agent takes over. */
  | { readonly kind: "detached" };

export type AttemptRun = {
  readonly done: Promise<AttemptEnd>;
  /** The first cause wins, except that a lost lease always does: its result must not be reported. */
  stop(cause: StopCause): void;
  detach(): void;
};

export type AttemptOptions = {
  readonly host: Host;
  readonly spec: Spec;
  readonly started: Started;
  readonly kind: StageKind;
  readonly folder: AttemptFolder;
  readonly artifacts: Artifacts;
  readonly cache: Pick<ArtifactCache, "release">;
  readonly inventory: Inventory;
  readonly programs: Programs;
  readonly control: Pick<ControlPlane, "placeOutputs" | "sendProgress">;
  readonly leaseLimitMs: number;
  readonly killAfterMs: number;
  readonly transferPatienceMs?: number;
  readonly log: Logger;
};

class Stopped extends Error {
  override readonly name = "Stopped";
}
/** A stage that does not follow its signal is given up after this; its processes are gone by then. */
const unwindMs = 5_000;
const maxMessageLength = 2_000;
/** Below this the disk is what killed a process that left no exit status. */
const emptyDiskBytes = 1024 * 1024;
/** Of one upload; an address is good for an hour, and what is stored already is not sent again. */
const maxAddresses = 5;
const placePauses = { firstMs: 200, maxMs: 5_000 };

export const runAttempt = (options: AttemptOptions): AttemptRun => {
  const { folder, spec, started, host } = options;
  const { offer } = spec;
  const stop = new AbortController();
  const detach = new AbortController();
  let cause: StopCause | undefined;
  const end = (why: StopCause) => {
    if (cause === undefined || why === "lease_lost") cause = why;
    if (!stop.signal.aborted) stop.abort(new Stopped(why));
  };
  const uses = new Map<string, Usage>();
  const progress = createProgressSender(offer, options.control.sendProgress);
  const endsAtMs = started.atMs + offer.timeoutMs;
  const limit = setTimeout(() => end("timeout"), Math.max(0, endsAtMs - host.nowMs()));
  const transfer = {
    signal: AbortSignal.any([stop.signal, detach.signal]),
    ...(options.transferPatienceMs === undefined ? {} : { patienceMs: options.transferPatienceMs }),
  };

  const work = async (): Promise<{ result: string; outputs: Artifact[] }> => {
    const inputs = await options.artifacts.bring(offer.inputs, folder.workDir, transfer);
    const context = createStageContext({
      ...options,
      inputs,
      stop: stop.signal,
      detach: detach.signal,
      endsAtMs,
      progress: progress.report,
      usage: (use) => void uses.set(`${use.service} ${use.provider} ${use.unit}`, { ...use }),
    });
    const made = await options.kind.run(context);
    stop.signal.throwIfAborted();
    const result = JSON.stringify(made.result);
    if (Buffer.byteLength(result) > maxResultBytes)
      throw new StageFailure(
        "agent_bug",
        `the result of ${offer.stage} has ${Buffer.byteLength(result)} bytes, at most ${maxResultBytes} are allowed`,
      );
    const outputs = await options.artifacts.describe(made.outputs, folder.workDir, transfer.signal);
    if (outputs.length > 0) await storeAll(made.outputs, outputs);
    return { result, outputs };
  };

  /** An hour's render is not lost because its upload took longer than an address is good for. */
  const storeAll = async (files: readonly OutputFile[], outputs: Artifact[]): Promise<void> => {
    for (let addresses = 1; ; addresses++) {
      const { targets } = await place(options, outputs, transfer.signal, () => end("lease_lost"));
      try {
        return await options.artifacts.store(outputs, files, folder.workDir, targets, transfer);
      } catch (error) {
        if (!(error instanceof AddressRefused) || addresses >= maxAddresses) throw error;
        options.log.warn({ err: error }, "an address for outputs was refused, asking for a new one");
      }
    }
  };

  const finish = (
    outcome: Outcome,
    more: { result?: string; outputs?: Artifact[]; failure?: CompleteRequest["failure"] },
  ): AttemptEnd => {
    const elapsedMs = Math.max(0, host.nowMs() - started.atMs);
    return {
      kind: "result",
      request: {
        attemptId: offer.attemptId,
        fence: offer.fence,
        outcome,
        result: more.result ?? "{}",
        outputs: more.outputs ?? [],
        failure: more.failure,
        usage: [...uses.values(), ...computeUse(spec, elapsedMs)],
        elapsedMs: BigInt(Math.round(elapsedMs)),
      },
    };
  };

  const explain = async (error: unknown): Promise<AttemptEnd> => {
    switch (cause) {
      case "cancelled":
        return finish(Outcome.OUTCOME_CANCELLED, {});
      case "lease_lost":
        return { kind: "discard" };
      case "untrusted":
        return finish(Outcome.OUTCOME_INTERRUPTED, {
          failure: failure("network", "The lease could not be renewed in time, so the agent stopped the work itself."),
        });
      case "given_back":
        return finish(Outcome.OUTCOME_INTERRUPTED, {
          failure: failure("transient", "The host is being emptied and its time was up, so the work was given back."),
        });
      case "timeout":
        return finish(Outcome.OUTCOME_FAILED, {
          failure: failure(
            "timeout",
            `${offer.stage} was not done within its limit of ${offer.timeoutMs / 1000} s and was ended. Raise timeout in the pipeline or give the stage more cores.`,
          ),
        });
      case "failed":
      case undefined:
        break;
    }
    if (error instanceof LeaseEnded)
      return finish(Outcome.OUTCOME_INTERRUPTED, { failure: failure("network", `${error.message}.`) });
    options.log.warn({ err: error }, "stage failed");
    return finish(Outcome.OUTCOME_FAILED, { failure: await describeFailure(error, options) });
  };

  const run = async (): Promise<AttemptEnd> => {
    // The stage may ignore its signal (a call that never answers): after a stop it gets a bounded time to unwind.
    const working = work();
    const outcome = await Promise.race([
      working.then(
        (made) => ({ made }),
        (error: unknown) => ({ error }),
      ),
      untilGivenUp(stop.signal, options.killAfterMs + unwindMs),
      untilGivenUp(detach.signal, unwindMs),
    ]);
    clearTimeout(limit);
    progress.close();
    if (detach.signal.aborted && cause === undefined && !("made" in outcome)) return { kind: "detached" };
    // Done is done: a stop that comes after the last byte was stored changes nothing, except for a lost lease.
    if ("made" in outcome && cause !== "lease_lost") return finish(Outcome.OUTCOME_SUCCEEDED, outcome.made);
    end("failed");
    await host.endMarked(folder.root);
    return explain("error" in outcome ? outcome.error : undefined);
  };
  return { done: run(), stop: end, detach: () => detach.abort(new Detached("the agent is stopping")) };
};

const untilGivenUp = (signal: AbortSignal, afterMs: number): Promise<{ readonly givenUp: true }> =>
  new Promise((resolve) => {
    const start = () => setTimeout(() => resolve({ givenUp: true }), afterMs).unref();
    if (signal.aborted) start();
    else signal.addEventListener("abort", start, { once: true });
  });

/** Asks until answered: the outputs are on disk, and only a stop or the time limit makes them worthless. */
const place = async (options: AttemptOptions, outputs: Artifact[], signal: AbortSignal, onLeaseLost: () => void) => {
  const { attemptId, fence } = options.spec.offer;
  const nextPauseMs = createBackoff(placePauses);
  for (;;) {
    signal.throwIfAborted();
    try {
      return await options.control.placeOutputs({ attemptId, fence, outputs });
    } catch (error) {
      if (isCode(error, "lease_lost")) onLeaseLost();
      signal.throwIfAborted();
      // INVALID_ARGUMENT: the same question gets the same answer.
      if (grpcCodeOf(error) === 3) throw error;
      options.log.debug({ err: error }, "no place for the outputs yet");
      await pause(nextPauseMs(), undefined, { signal });
    }
  }
};

const failure = (
  failureClass: FailureClass,
  message: string,
  more: { readonly evidence?: string; readonly exit?: string } = {},
): NonNullable<CompleteRequest["failure"]> => ({
  failureClass,
  message: message.slice(0, maxMessageLength),
  evidence: lastBytes(more.evidence ?? "", maxEvidenceBytes),
  exit: more.exit ?? "",
});

const describeFailure = async (error: unknown, options: AttemptOptions) => {
  if (isDiskFull(error))
    return failure(
      "disk_full",
      `The scratch disk of this host is full (${(error as Error).message}). Free space there.`,
    );
  if (!(error instanceof StageFailure))
    return failure("agent_bug", `${options.kind.kind} stopped on an unexpected fault: ${textOf(error)}`, {
      evidence: error instanceof Error ? (error.stack ?? "") : "",
    });
  const free =
    error.failureClass === "killed" ? await options.host.disk.freeBytes(options.folder.root).catch(() => 0) : 0;
  const isFull = error.failureClass === "killed" && free < emptyDiskBytes;
  return failure(isFull ? "disk_full" : error.failureClass, error.message, error);
};

const textOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

/** Cut in front: the cause stands at the end. A cut through a character leaves a replacement mark. */
const lastBytes = (text: string, limit: number): string => {
  const bytes = Buffer.from(text);
  if (bytes.length <= limit) return text;
  // The replacement mark has three bytes where the cut had one.
  return bytes.subarray(bytes.length - limit + 6).toString("utf8");
};

const computeUse = (spec: Spec, elapsedMs: number): Usage[] => {
  const { allocation } = spec.offer;
  const seconds = elapsedMs / 1000;
  const cores: Usage = {
    service: "cpu_compute",
    provider: "host",
    unit: "core_second",
    quantity: (allocation?.cores ?? 0) * seconds,
  };
  const gpu: Usage = { service: "gpu_compute", provider: "host", unit: "gpu_second", quantity: seconds };
  return [cores, ...(allocation?.gpuUuid ? [gpu] : [])];
};
