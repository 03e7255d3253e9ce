// Forgets what is past its time: a batch every ten minutes, and while there is more, one after a short rest, so that whoever works
// has the database for most of the time. Runs under a lead. What is kept and how long is operations/prune-history.ts's.
import { type Rhythm, rhythm } from "@renderplane/proto/kernel/process/rhythm.ts";
import type { Context } from "../operations/context.ts";
import { defaultRetention, newPruneMemory, pruneHistory, type Retention } from "../operations/prune-history.ts";
import { turnFailed } from "./turn-failed.ts";

const periodMs = 10 * 60_000;
/** A batch takes about a tenth of it: at most a tenth of one connection, and 100,000 jobs an hour. */
const restMs = 1_000;

export const createRetention = (ctx: Context, retention: Retention = defaultRetention): Rhythm => {
  const memory = newPruneMemory();
  return rhythm({
    name: "retention",
    periodMs,
    turn: async () => {
      const { isMore, ...removed } = await pruneHistory(ctx, memory, retention);
      if (Object.values(removed).some((count) => count > 0)) ctx.log.info(removed, "history past its time was removed");
      return isMore ? restMs : periodMs;
    },
    onError: turnFailed(ctx.log, "retention"),
  });
};
