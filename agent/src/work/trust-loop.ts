// The agent's own deadline for what it holds: running work that can no longer be trusted is stopped, an accepted attempt that was
// never started is forgotten after one lease. How long is trusted decides domain/trust.ts.
import type { Logger } from "@renderplane/proto/kernel/process/logger.ts";
import { type Rhythm, rhythm } from "@renderplane/proto/kernel/process/rhythm.ts";
import { type Lease, trustedUntilMs } from "../domain/trust.ts";
import type { Entry } from "./entry.ts";

/** The longest sleep; with nothing held it costs one timer a minute. */
const idleMs = 60_000;
const minMs = 20;
/** Past its trusted time nothing may run on, so a fault of the loop is not slept over. */
const retryMs = 1_000;

export const createTrustLoop = (options: {
  readonly entries: ReadonlyMap<string, Entry>;
  readonly nowMs: () => number;
  readonly marginMs: (lease: Lease) => number;
  readonly forget: (entry: Entry) => void;
  readonly log: Logger;
}): Rhythm =>
  rhythm({
    name: "trust",
    periodMs: idleMs,
    turn: async () => {
      let nextMs = idleMs;
      for (const entry of [...options.entries.values()]) {
        const leftMs = deadlineOf(entry, options.marginMs) - options.nowMs();
        if (leftMs > 0) nextMs = Math.min(nextMs, leftMs + 1);
        else if (entry.state === "running") entry.run?.stop("untrusted");
        else options.forget(entry);
      }
      return Math.max(minMs, nextMs);
    },
    onError: (error) => options.log.error({ err: error }, "trust loop failed"),
    errorPauseMs: retryMs,
  });

/** What waits for a verdict or an answer has no deadline of its own. */
const deadlineOf = ({ state, lease }: Entry, marginMs: (lease: Lease) => number): number =>
  state === "running"
    ? trustedUntilMs(lease, marginMs(lease))
    : state === "accepted"
      ? lease.renewedMs + lease.leaseMs
      : Number.POSITIVE_INFINITY;
