// How soon the agent comes back: at once but spread over a second after a stream that lived, with full jitter after failures, and
// slowly when it was refused by name, because then a person must act. What the server asks for wins over all of it.
import type { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { defaultTimings } from "@renderplane/proto/kernel/limits.ts";
import { isPassing } from "./errors.ts";

export type Pace = {
  /** From the start of a connection to the answer to Hello; longer is a failure. */
  readonly helloLimitMs: number;
  readonly firstRetryMs: number;
  readonly backoffBaseMs: number;
  readonly backoffCapMs: number;
  /** After a refusal: certificate, protocol version. Running work goes on meanwhile. */
  readonly refusedRetryMs: number;
  /** A stream that lived this long forgives earlier failures. */
  readonly steadyMs: number;
  /** Between two renewals of the certificate, whatever its dates say. */
  readonly renewalPauseMs: number;
};

export const defaultPace: Pace = {
  helloLimitMs: 10_000,
  firstRetryMs: 1000,
  backoffBaseMs: 500,
  // A lease is 30 s: with this cap an agent that was cut off is back before its work is given away.
  backoffCapMs: 15_000,
  refusedRetryMs: 60_000,
  steadyMs: 10_000,
  renewalPauseMs: 60_000,
};

/** A lease is long gone by then; a larger wish is a mistake that would park the fleet. */
const longestRetryAfterMs = 300_000;
const slowestHeartbeatMs = 60_000;
/** Faster than any test beats; 0 or 1 would keep a core busy. */
const fastestHeartbeatMs = 20;

/** `failures`: streams in a row that did not live; 0 after one that did. `random` is 0..1. */
export const retryDelayMs = (
  error: RenderplaneError | undefined,
  failures: number,
  pace: Pace,
  random: number = Math.random(),
): number => {
  if (error?.retryAfterMs !== undefined) return Math.min(error.retryAfterMs, longestRetryAfterMs);
  if (error && !isPassing(error)) return pace.refusedRetryMs;
  if (failures === 0) return random * pace.firstRetryMs;
  return random * Math.min(pace.backoffCapMs, pace.backoffBaseMs * 2 ** Math.min(failures, 20));
};

/**
 * The wait after each end of a stream, which remembers how many in a row did not live. `choices`: addresses that can be tried;
 * the waits grow by the round, so that one dead replica among three is passed over quickly.
 */
export const createComeback = (pace: Pace, random: () => number = Math.random) => {
  let failures = 0;
  return (end: {
    readonly error: RenderplaneError | undefined;
    readonly livedMs: number;
    readonly choices?: number;
  }): number => {
    failures = end.livedMs >= pace.steadyMs ? 0 : failures + 1;
    return retryDelayMs(end.error, Math.ceil(failures / (end.choices ?? 1)), pace, random());
  };
};

/** A replica that stops says within which time to go; a longer wish is a mistake that would keep it waiting for us. */
const longestMoveMs = 60_000;
export const moveDelayMs = (withinMs: number, random: number = Math.random()): number =>
  random * Math.min(longestMoveMs, Math.max(0, withinMs));

/** How often to beat when the control plane asks for this; what makes no sense is brought back into bounds. */
export const heartbeatPeriodMs = (askedMs: number): number =>
  askedMs > 0 ? Math.min(slowestHeartbeatMs, Math.max(fastestHeartbeatMs, askedMs)) : defaultTimings.heartbeatMs;

/** Resolves after `ms` or when the signal aborts. */
export const pause = (ms: number, signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", done);
  });
