// Looks for deadlines that have passed: when the next one is due, and at least every second, because other replicas take in jobs.
import { type Rhythm, rhythm } from "@renderplane/proto/kernel/process/rhythm.ts";
import type { Context } from "../operations/context.ts";
import { watchDeadlines } from "../operations/watch-deadlines.ts";
import { turnFailed } from "./turn-failed.ts";

const periodMs = 1_000;
/** A deadline of this moment is due at the next millisecond; an empty turn for each would only spin. */
const shortestMs = 20;

export const createDeadlines = (ctx: Context): Rhythm =>
  rhythm({
    name: "deadlines",
    periodMs,
    turn: async () => {
      const { nextMs } = await watchDeadlines(ctx);
      return nextMs === undefined ? undefined : Math.min(periodMs, Math.max(shortestMs, nextMs));
    },
    onError: turnFailed(ctx.log, "deadlines"),
  });
