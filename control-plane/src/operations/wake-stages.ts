// Retries whose time has come are ready again.
import { appendEvents } from "../store/events.ts";
import { nextDueMs, wakeStages as wake } from "../store/stages.ts";
import type { Context } from "./context.ts";

const batchSize = 500;

/** Answers when the next one is due (ms), or undefined when none waits. */
export const wakeStages = async (
  ctx: Context,
): Promise<{ readonly woken: number; readonly nextMs: number | undefined }> => {
  const woken = await ctx.db.transaction(async (tx) => {
    const stages = await wake(tx, batchSize);
    await appendEvents(
      tx,
      stages.map((s) => ({ type: "stage.ready", jobId: s.jobId, body: { stage: s.name } })),
    );
    return stages.length;
  });
  if (woken > 0) {
    ctx.bus.ring("ready");
    ctx.bus.ring("events");
  }
  return { woken, nextMs: await nextDueMs(ctx.db.direct) };
};
