// Judges silence once a beat, in an order that matters: first whether anybody could have heard (after an outage of ours countdowns
// start again), then whether a whole pool fell silent (its valve closes before anything of it is given away), then the leases.
// Remembers only when it first saw a lease overdue; a new leader of the loop looks twice again, which errs towards waiting.
import { type Rhythm, rhythm } from "@renderplane/proto/kernel/process/rhythm.ts";
import type { Context } from "../operations/context.ts";
import { judgeValves } from "../operations/judge-valves.ts";
import { beatReaper, reapLeases } from "../operations/reap-leases.ts";
import { turnFailed } from "./turn-failed.ts";

/** Tests beat fast; a turn is a few statements. */
const shortestPeriodMs = 50;

export const createReaper = (ctx: Context): Rhythm => {
  const first = new Map<string, number>();
  return rhythm({
    name: "reaper",
    periodMs: Math.max(shortestPeriodMs, ctx.timings.heartbeatMs),
    turn: async () => {
      const { hearingMs } = await beatReaper(ctx);
      await judgeValves(ctx, hearingMs);
      await reapLeases(ctx, { first, nowMs: performance.now() });
    },
    onError: turnFailed(ctx.log, "reaper"),
  });
};
