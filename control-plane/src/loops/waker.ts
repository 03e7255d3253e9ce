// Makes retries ready when their time comes; sleeps until the next one is due.
import { type Rhythm, rhythm } from "@renderplane/proto/kernel/process/rhythm.ts";
import type { Context } from "../operations/context.ts";
import { wakeStages } from "../operations/wake-stages.ts";
import { turnFailed } from "./turn-failed.ts";

/** Retries are written by other operations and replicas, so it looks at least this often. */
const periodMs = 1_000;

export const createWaker = (ctx: Context): Rhythm => {
  /** A refused stage is ready again by its time alone; at that time nothing is written, so the placer is woken here. */
  let isDue = false;
  return rhythm({
    name: "waker",
    periodMs,
    turn: async () => {
      if (isDue) ctx.bus.ring("ready");
      const { nextMs } = await wakeStages(ctx);
      isDue = nextMs !== undefined && nextMs <= periodMs;
      return nextMs === undefined ? undefined : Math.min(periodMs, Math.max(20, nextMs));
    },
    onError: turnFailed(ctx.log, "waker"),
  });
};
