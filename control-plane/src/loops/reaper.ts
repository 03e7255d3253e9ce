// Ends attempts whose lease ran out. When its own turns stood still for longer than a lease (the database or this process was
// away), it restarts every countdown instead of judging hosts that could not have been heard.
import { type Rhythm, rhythm } from "@renderplane/proto/kernel/process/rhythm.ts";
import type { Context } from "../operations/context.ts";
import { reapLeases, restartCountdown } from "../operations/reap-leases.ts";

export const createReaper = (ctx: Context): Rhythm => {
  // A sixth of a lease, five seconds at the default: as often as a heartbeat.
  const periodMs = Math.max(100, Math.round(ctx.timings.leaseMs / 6));
  let lastTurn = performance.now();
  return rhythm({
    name: "reaper",
    periodMs,
    turn: async () => {
      if (performance.now() - lastTurn > ctx.timings.leaseMs) await restartCountdown(ctx);
      await reapLeases(ctx);
      lastTurn = performance.now();
    },
    onError: (error) => ctx.log.error({ err: error, loop: "reaper" }, "loop turn failed"),
  });
};
