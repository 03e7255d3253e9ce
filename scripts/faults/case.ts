// What a fault is to the suite: how the fleet looks, what is done to it, and what came of it. The matrix is the list of these.
// A case throws when the fleet did not do what it must; what it answers is measured, and the runner adds what must never happen.
import type { FleetOptions } from "../flow/fleet.ts";
import type { Bed } from "./bed.ts";

export type Measured = {
  /** From the fault until somebody knew of it; null where nothing has to be noticed. */
  readonly detectMs: number | null;
  /** From the fault (or from its end, when the case says so) until the work ran again or was finished. */
  readonly recoverMs: number | null;
  /** What else was counted, in a few words. */
  readonly note?: string;
};

export type FaultCase = {
  /** Numbers of the matrix, e.g. F10. */
  readonly faults: readonly string[];
  readonly injected: string;
  readonly fleet?: FleetOptions;
  /** A reason why this machine cannot do it; undefined when it can. */
  readonly unable?: () => Promise<string | undefined>;
  /** States in which a job may end here; default: completed only. */
  readonly allowed?: readonly string[];
  /** Thresholds of the matrix for this profile; above them the case fails. */
  readonly within?: { readonly detectMs?: number; readonly recoverMs?: number };
  /** Longest that the case itself may take. */
  readonly limitMs?: number;
  readonly run: (bed: Bed) => Promise<Measured>;
};

export type Result = {
  readonly faults: readonly string[];
  readonly injected: string;
  readonly measured: Measured | undefined;
  readonly jobs: number;
  readonly jobsLost: number;
  readonly appliedTwice: number;
  readonly broken: readonly string[];
  readonly tookMs: number;
  /** Why it was left out on this machine. */
  readonly skipped?: string;
  readonly error?: string;
};

/** All windows follow from it, here at its default: suspect 0.9 s, lease and grace 1.8 s, offer 0.6 s, leader and replica 0.9 s, orphan and valve 36 s. */
export const heartbeatMs = Number(process.env.FAULTS_HEARTBEAT_MS ?? 300);
export const beats = (count: number): number => count * heartbeatMs;
/** A machine that everybody shares is late; what has to be fast is fast by far more than this. */
export const slackMs = 10_000;
