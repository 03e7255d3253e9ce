// Keeps the queue's mirror in Redis: soon after events, and at least every five seconds. Runs under a lead.
import { type Rhythm, rhythm } from "@renderplane/proto/kernel/process/rhythm.ts";
import type { QueueMirror } from "../bus/queue-mirror.ts";
import type { Context } from "../operations/context.ts";
import { mirrorQueue } from "../operations/mirror-queue.ts";
import { listening } from "./listening.ts";

const periodMs = 5_000;
/** The whole mirror is written each time, so events of a second are one writing. */
const gatherMs = 1_000;

export const createMirror = (ctx: Context, mirror: QueueMirror): Rhythm => {
  const loop = rhythm({
    name: "mirror",
    periodMs,
    gatherMs,
    turn: async () => ((await mirrorQueue(ctx, mirror)) ? 0 : periodMs),
    onError: (error) => ctx.log.warn({ err: error, loop: "mirror" }, "the queue was not mirrored to Redis"),
  });
  return listening(loop, () => ctx.bus.on("events", loop.ring));
};
