// Once a beat: what changed about hosts by itself (silence, its end, finished drains) is told, and hosts whose drain is past its
// deadline are rung. What it finds is decided and written by operations/watch-hosts.ts.
import { type Rhythm, rhythm } from "@renderplane/proto/kernel/process/rhythm.ts";
import type { Context } from "../operations/context.ts";
import { watchHosts } from "../operations/watch-hosts.ts";
import { turnFailed } from "./turn-failed.ts";

/** Tests beat fast; a turn is a few statements. */
const shortestPeriodMs = 50;

export const createHostWatch = (ctx: Context): Rhythm =>
  rhythm({
    name: "hosts",
    periodMs: Math.max(shortestPeriodMs, ctx.timings.heartbeatMs),
    // Its answer is a count, not a pause.
    turn: async () => void (await watchHosts(ctx)),
    onError: turnFailed(ctx.log, "hosts"),
  });
