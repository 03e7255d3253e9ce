// The work of one simulated host: room, attempts that run as timers, and how they end. Stands where the supervisor of a real agent
// stands, without programs and without a disk. Its journal is memory that lives as long as the host is not killed.
// Invariant: an attempt ends here at most once, and what was told to stop never reports a success.
import {
  type CompleteRequest,
  type HeldAttempt,
  HeldState,
  type Offer,
  type OfferAnswer,
  Outcome,
  Refusal,
  type Stop,
  StopReason,
  type Verdict,
  VerdictAction,
} from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import type { Inventory } from "@renderplane/proto/gen/renderplane/v1/types.ts";
import type { FailureClass } from "@renderplane/proto/kernel/failure.ts";
import { maxAttemptsPerHost } from "@renderplane/proto/kernel/limits.ts";
import type { Meter } from "./meter.ts";
import type { Random } from "./random.ts";
import { durationMs, failureOf, type Scenario } from "./scenario.ts";

type Running = {
  readonly offer: Offer;
  readonly acceptedAt: number;
  state: HeldState;
  startedAt: number;
  timer: NodeJS.Timeout | undefined;
};

export type SimulatedWork = {
  readonly held: () => HeldAttempt[];
  readonly running: () => number;
  readonly offer: (offer: Offer) => OfferAnswer;
  readonly start: (attemptId: string, fence: bigint) => void;
  readonly stop: (stop: Stop) => void;
  readonly judge: (verdicts: readonly Verdict[]) => void;
  /** The control plane has the end: nothing is held for it any more. */
  readonly acknowledged: (attemptId: string) => void;
  /** Nothing was acknowledged for this long: what may not go on without it is given up. */
  readonly silentFor: (ms: number, exclusiveMs: number) => void;
  readonly drain: () => void;
  /** Power off: everything is forgotten, nothing is reported. */
  readonly forget: () => void;
};

export const createSimulatedWork = (parts: {
  readonly inventory: Inventory;
  readonly scenario: Pick<Scenario, "durations" | "failures" | "gpuSpeed">;
  readonly random: Random;
  readonly meter: Meter;
  readonly report: (end: CompleteRequest) => void;
}): SimulatedWork => {
  const { inventory, scenario, random, meter } = parts;
  const attempts = new Map<string, Running>();
  let isDraining = false;

  const drop = (attemptId: string) => {
    const known = attempts.get(attemptId);
    if (!known) return;
    clearTimeout(known.timer);
    attempts.delete(attemptId);
    meter.count("abandoned");
  };
  const end = (run: Running, outcome: Outcome, failureClass?: FailureClass) => {
    if (run.state === HeldState.HELD_STATE_ENDED) return;
    clearTimeout(run.timer);
    const { offer } = run;
    const elapsedMs = run.startedAt === 0 ? 0 : performance.now() - run.startedAt;
    run.state = HeldState.HELD_STATE_ENDED;
    meter.count(words[outcome]);
    meter.count("coreMs", elapsedMs * (offer.allocation?.cores ?? 0));
    if (offer.allocation?.gpuUuid) meter.count("gpuMs", elapsedMs);
    parts.report({
      attemptId: offer.attemptId,
      fence: offer.fence,
      outcome,
      // Small facts in the shape of a real stage's: an object, with nothing that a later stage has to open.
      result: outcome === Outcome.OUTCOME_SUCCEEDED ? `{"simulated":true,"elapsed_ms":${Math.round(elapsedMs)}}` : "{}",
      outputs: [],
      failure:
        failureClass === undefined
          ? undefined
          : { failureClass, message: `simulated: the ${offer.stage} of this host failed`, evidence: "", exit: "1" },
      usage: [],
      elapsedMs: BigInt(Math.round(elapsedMs)),
    });
  };
  const run = (attemptId: string, fence: bigint) => {
    const known = attempts.get(attemptId);
    if (!known || known.offer.fence !== fence || known.state !== HeldState.HELD_STATE_ACCEPTED) return;
    known.state = HeldState.HELD_STATE_RUNNING;
    known.startedAt = performance.now();
    meter.count("started");
    meter.time("acceptToStart", known.startedAt - known.acceptedAt);
    const failureClass = failureOf(scenario, random);
    const takesMs = durationMs(scenario, random, {
      kind: known.offer.kind,
      hasGpu: (known.offer.allocation?.gpuUuid ?? "") !== "",
    });
    const finish = () =>
      end(known, failureClass === undefined ? Outcome.OUTCOME_SUCCEEDED : Outcome.OUTCOME_FAILED, failureClass);
    if (takesMs <= 0) finish();
    else known.timer = setTimeout(finish, Math.min(takesMs, Math.max(1, known.offer.timeoutMs)));
  };
  const stop = ({ attemptId, fence, reason }: Stop) => {
    const known = attempts.get(attemptId);
    if (!known || known.offer.fence !== fence) return;
    if (reason === StopReason.STOP_REASON_CANCELLED) end(known, Outcome.OUTCOME_CANCELLED);
    else if (reason === StopReason.STOP_REASON_GIVE_BACK) end(known, Outcome.OUTCOME_INTERRUPTED);
    else drop(attemptId);
  };

  return {
    held: () =>
      [...attempts.values()].map(({ offer, state }) => ({ attemptId: offer.attemptId, fence: offer.fence, state })),
    running: () => {
      let count = 0;
      for (const { state } of attempts.values()) if (state === HeldState.HELD_STATE_RUNNING) count++;
      return count;
    },
    offer: (offer) => {
      meter.count("offers");
      // Sent twice, over two streams: the answer is the same and the second one changes nothing.
      const known = attempts.get(offer.attemptId);
      const refusal = known ? undefined : refusalOf(offer, inventory, attempts, isDraining);
      if (!known && !refusal) {
        const state = HeldState.HELD_STATE_ACCEPTED;
        attempts.set(offer.attemptId, { offer, state, acceptedAt: performance.now(), startedAt: 0, timer: undefined });
      }
      meter.count(refusal ? "refused" : "accepted");
      return {
        attemptId: offer.attemptId,
        fence: offer.fence,
        accepted: refusal === undefined,
        refusal: refusal?.refusal ?? Refusal.REFUSAL_UNSPECIFIED,
        reason: refusal?.reason ?? "",
      };
    },
    start: run,
    stop,
    judge: (verdicts) => {
      for (const { attemptId, fence, action } of verdicts) {
        if (action === VerdictAction.VERDICT_ACTION_ABANDON) drop(attemptId);
        else if (action === VerdictAction.VERDICT_ACTION_CONTINUE) run(attemptId, fence);
      }
    },
    acknowledged: (attemptId) => void attempts.delete(attemptId),
    silentFor: (ms, exclusiveMs) => {
      for (const { offer, state } of [...attempts.values()])
        if (state !== HeldState.HELD_STATE_ENDED && ms > (offer.trustedMs > 0 ? offer.trustedMs : exclusiveMs))
          drop(offer.attemptId);
    },
    drain: () => {
      isDraining = true;
    },
    forget: () => {
      for (const known of attempts.values()) clearTimeout(known.timer);
      attempts.clear();
      isDraining = false;
    },
  };
};

const words = {
  [Outcome.OUTCOME_UNSPECIFIED]: "failed",
  [Outcome.OUTCOME_SUCCEEDED]: "succeeded",
  [Outcome.OUTCOME_FAILED]: "failed",
  [Outcome.OUTCOME_CANCELLED]: "cancelled",
  [Outcome.OUTCOME_INTERRUPTED]: "interrupted",
  [Outcome.UNRECOGNIZED]: "failed",
} as const satisfies Record<Outcome, string>;

/** The host's own table of room: the control plane decided on rows that may be older than what runs here. */
const refusalOf = (
  offer: Offer,
  inventory: Inventory,
  attempts: ReadonlyMap<string, Running>,
  isDraining: boolean,
): { readonly refusal: Refusal; readonly reason: string } | undefined => {
  if (isDraining) return { refusal: Refusal.REFUSAL_DRAINING, reason: "the host is being drained" };
  if (!inventory.stageKinds.includes(offer.kind))
    return { refusal: Refusal.REFUSAL_MISSING_CAPABILITY, reason: `it cannot run ${offer.kind} stages` };
  let cores = inventory.cores;
  let memory = inventory.memoryBytes;
  let count = 0;
  for (const { offer: other, state } of attempts.values()) {
    // Ended and not yet acknowledged: its room is free again.
    if (state === HeldState.HELD_STATE_ENDED) continue;
    cores -= other.allocation?.cores ?? 0;
    memory -= other.allocation?.memoryBytes ?? 0n;
    count++;
  }
  if (count >= maxAttemptsPerHost)
    return { refusal: Refusal.REFUSAL_NO_CAPACITY, reason: `it holds ${count} attempts` };
  if ((offer.allocation?.cores ?? 0) > cores + 1e-6)
    return { refusal: Refusal.REFUSAL_NO_CAPACITY, reason: `cores: needs ${offer.allocation?.cores}, ${cores} free` };
  if ((offer.allocation?.memoryBytes ?? 0n) > memory)
    return {
      refusal: Refusal.REFUSAL_NO_CAPACITY,
      reason: `memory: needs more than the ${memory} bytes that are free`,
    };
  return undefined;
};

/** What a host of some use says of itself. */
export const healthOf = (running: number, unacknowledgedEnds: number) => ({
  cpuUsed: Math.min(1, running / 8),
  memoryUsedBytes: BigInt(running) * 256n * 1024n ** 2n,
  scratchFreeBytes: 100n * 1024n ** 3n,
  gpus: [],
  agentRssBytes: 90_000_000n,
  loadAverage: running,
  unacknowledgedEnds,
  isDraining: false,
});
