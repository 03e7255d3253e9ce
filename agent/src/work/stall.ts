// Whether this agent itself has just stood still: stopped by a signal, swapped out, on a host that was frozen. Time passed that it
// did not see, so its attempts may be somebody else's by now, and it must not act on them before it was told that they are not.
//   a gap between two looks of more than two heartbeats  →  stalled  →  an acknowledged heartbeat (or Hello) sent after the gap
// Work that runs goes on. A help, not a guarantee (a suspended machine's clock stands still too): the fence is the guarantee.
import { defaultTimings } from "@renderplane/proto/kernel/limits.ts";
import type { Lifetime } from "@renderplane/proto/kernel/process/lifecycle.ts";
import type { Logger } from "@renderplane/proto/kernel/process/logger.ts";
import { rhythm } from "@renderplane/proto/kernel/process/rhythm.ts";

const maxGapBeats = 2;
/** Looks in a heartbeat: a gap is seen for what it is, and an idle agent wakes no more often than for its heartbeats. */
const looksPerBeat = 2;

export type StallGuard = Lifetime & {
  isStalled(): boolean;
  /** A session opened: from now on there is somebody who can confirm, at this pace. */
  arm(heartbeatMs: number): void;
  /** What was sent then was acknowledged. True when a stall is over by it. */
  confirm(sentMs: number): boolean;
};

export const createStallGuard = (options: {
  readonly log: Logger;
  /** The clock of `confirm`; counts while the process is stopped. */
  readonly nowMs?: () => number;
}): StallGuard => {
  const nowMs = options.nowMs ?? (() => performance.now());
  let heartbeatMs: number | undefined;
  let lookedMs = nowMs();
  let stalledMs: number | undefined;

  const look = (): boolean => {
    const now = nowMs();
    const gapMs = now - lookedMs;
    lookedMs = now;
    if (heartbeatMs !== undefined && gapMs > maxGapBeats * heartbeatMs) {
      stalledMs = now;
      options.log.warn(
        { gap_ms: Math.round(gapMs) },
        "this agent stood still; it commits nothing until it is confirmed",
      );
    }
    return stalledMs !== undefined;
  };
  const looks = rhythm({
    name: "stall",
    periodMs: defaultTimings.heartbeatMs,
    turn: async () => {
      look();
      return (heartbeatMs ?? defaultTimings.heartbeatMs) / looksPerBeat;
    },
    onError: (error) => options.log.error({ err: error }, "the look at the own clock failed"),
  });
  return {
    name: "stall",
    start: looks.start,
    stop: looks.stop,
    isStalled: look,
    arm: (beatMs) => {
      // A gap that began while nothing was armed is judged by the session that opens now.
      look();
      heartbeatMs = beatMs;
      looks.ring();
    },
    confirm: (sentMs) => {
      look();
      if (stalledMs === undefined || sentMs < stalledMs) return false;
      stalledMs = undefined;
      return true;
    },
  };
};
