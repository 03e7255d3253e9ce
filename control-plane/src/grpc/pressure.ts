// Whether this replica is overloaded: its event loop is late, or the store answers slowly. Then hosts are asked for fewer heartbeats
// and get no offers, while renewals, stops and ends go on: what runs is paid for, what waits can wait.
// One line in the log at the beginning of an episode and one at its end.
import { monitorEventLoopDelay } from "node:perf_hooks";
import type { Logger } from "@renderplane/proto/kernel/process/logger.ts";
import { type Rhythm, rhythm } from "@renderplane/proto/kernel/process/rhythm.ts";

/** 250 samples of the loop: one pause of the garbage collector is not an episode. */
const windowMs = 5000;
const resolutionMs = 20;
/** Begins above the first, ends below the second, so that it does not flap. */
export const lateAboveMs = 200;
const lateBelowMs = 100;
/** A turn of renewals that took longer: the store has more to do than it can. */
export const slowStoreMs = 1000;

export type Pressure = {
  readonly rhythm: Rhythm;
  isHigh(): boolean;
  /** How late the event loop was in the last window: 99 of 100 samples were not later. */
  loopDelayP99Ms(): number;
  /** A turn of renewals took this long. */
  storeTook(ms: number): void;
};

export const createPressure = (options: {
  readonly log: Logger;
  /** Lateness of the loop since the last call (p99); the event loop's own monitor without it. */
  readonly lateness?: () => number;
}): Pressure => {
  const monitor = monitorEventLoopDelay({ resolution: resolutionMs });
  const lateness =
    options.lateness ??
    (() => {
      // Every sample holds the time between two ticks of the monitor's own timer.
      const p99 = monitor.percentile(99) / 1e6 - resolutionMs;
      monitor.reset();
      return Number.isFinite(p99) ? Math.max(0, p99) : 0;
    });
  let isHigh = false;
  let delayMs = 0;
  let storeMs = 0;

  const turns = rhythm({
    name: "pressure",
    periodMs: windowMs,
    turn: async () => {
      delayMs = lateness();
      const isLate = delayMs > (isHigh ? lateBelowMs : lateAboveMs);
      const isSlow = storeMs > (isHigh ? slowStoreMs / 2 : slowStoreMs);
      const facts = { loop_delay_p99_ms: Math.round(delayMs), store_ms: Math.round(storeMs) };
      storeMs = 0;
      if (isHigh === (isLate || isSlow)) return;
      isHigh = !isHigh;
      if (isHigh) options.log.warn(facts, "overloaded: fewer heartbeats are asked for and offers pause");
      else options.log.info(facts, "no longer overloaded");
    },
    onError: (error) => options.log.error({ err: error }, "the load could not be judged"),
  });
  return {
    rhythm: {
      ...turns,
      start: async () => {
        monitor.enable();
        await turns.start();
      },
      stop: async () => {
        monitor.disable();
        await turns.stop();
      },
    },
    isHigh: () => isHigh,
    loopDelayP99Ms: () => delayMs,
    storeTook: (ms) => {
      storeMs = Math.max(storeMs, ms);
    },
  };
};
