// A host as the simulation plays it: what it journals, what it runs and how long it may trust a lease. The rules are those of the
// real agent; media is replaced by a time that a run takes and an outcome that follows from the seed.
import type { Held } from "../../control-plane/src/domain/lease.ts";
import type { Finish } from "../../control-plane/src/operations/finish-attempt.ts";
import type { OfferRecord } from "../../control-plane/src/operations/take-offers.ts";
import { heartbeatMs } from "./plan.ts";
import { createRandom, mix } from "./random.ts";

export type End = Pick<Finish, "outcome" | "failure" | "outputs">;
export type Run = {
  readonly attemptId: string;
  readonly fence: bigint;
  readonly jobId: string;
  readonly stage: string;
  /** Two at once do harm: stopped before its lease can be given away. */
  readonly isExclusive: boolean;
  state: Held["state"];
  /** When its program is done, in simulated time; set at the start. */
  doneAtMs: number;
  readonly planned: End;
  /** What is told until it is answered. */
  end: End | undefined;
  /** When the newest acknowledged renewal was sent. */
  renewedMs: number;
};

export type Stream = { readonly replica: number; readonly epoch: bigint };
export type Agent = {
  readonly index: number;
  readonly name: string;
  readonly hostId: string;
  readonly serial: string;
  isUp: boolean;
  isRevoked: boolean;
  stalledUntilMs: number;
  instance: number;
  /** Grows with every try to connect: an answer to an older one is not its own. */
  calls: number;
  connectingSinceMs: number | undefined;
  stream: Stream | undefined;
  readonly runs: Map<string, Run>;
};

export const createAgent = (index: number): Agent => {
  const name = `host-${index}`;
  return {
    index,
    name,
    hostId: `h_${String(index).padStart(26, "0")}`,
    serial: `serial-${name}`,
    isUp: true,
    isRevoked: false,
    stalledUntilMs: 0,
    instance: 1,
    calls: 0,
    connectingSinceMs: undefined,
    stream: undefined,
    runs: new Map(),
  };
};

export const isAwake = (agent: Agent, nowMs: number): boolean => agent.isUp && agent.stalledUntilMs <= nowMs;

export const heldBy = (agent: Agent): Held[] =>
  [...agent.runs.values()].map(({ attemptId, fence, state }) => ({ attemptId, fence, state }));

/** The program of this run may be working: nobody has stopped it and its own deadline has not passed. */
export const mayWork = (
  run: Run,
  nowMs: number,
  timings: { leaseMs: number; trustMarginMs: number; orphanMs: number },
) =>
  run.state === "running" &&
  nowMs < run.renewedMs + (run.isExclusive ? timings.leaseMs - timings.trustMarginMs : timings.orphanMs);

/** How it will end follows from the seed and what it is, not from what happened before: dropping an event changes less. */
export const runOf = (seed: number, offer: OfferRecord, nowMs: number): Run => {
  const random = createRandom(mix("run", seed, offer.jobId, offer.stage, offer.number));
  const failed = (failureClass: string): End => ({
    outcome: "failed",
    failure: { failureClass, severity: "", message: `it was ${failureClass}` },
    outputs: [],
  });
  const sha256 = offer.attemptId
    .slice(2)
    .toLowerCase()
    .replace(/[^0-9a-f]/g, "0")
    .padEnd(64, "0");
  const output = { name: "out.bin", sha256, sizeBytes: 1 + random.below(9), mediaType: "application/octet-stream" };
  const roll = random.below(100);
  const planned: End =
    roll < 72
      ? { outcome: "succeeded", failure: null, outputs: [output] }
      : roll < 90
        ? failed(random.pick(["timeout", "host_memory", "transient", "killed"]))
        : roll < 94
          ? failed("input_invalid")
          : { outcome: "interrupted", failure: null, outputs: [] };
  return {
    attemptId: offer.attemptId,
    fence: offer.fence,
    jobId: offer.jobId,
    stage: offer.stage,
    isExclusive: offer.trustedMs === 0,
    state: "accepted",
    doneAtMs: Number.POSITIVE_INFINITY,
    planned,
    end: undefined,
    renewedMs: nowMs,
  };
};

/** Simulated milliseconds that the work of a run takes: from at once to longer than a lease. */
export const workMs = (seed: number, run: Run): number =>
  createRandom(mix("work", seed, run.jobId, run.stage, run.attemptId)).pick([0, 1, 3, 8]) * heartbeatMs;
