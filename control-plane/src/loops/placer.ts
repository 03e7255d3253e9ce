// Gives ready stages to hosts: at every `ready` bell, when the next delayed stage is due, and at least every second.
import { type Rhythm, rhythm } from "@renderplane/proto/kernel/process/rhythm.ts";
import type { Context } from "../operations/context.ts";
import { newPlacementMemory, placeStages } from "../operations/place-stages.ts";
import { listening } from "./listening.ts";
import { turnFailed } from "./turn-failed.ts";

/** A lost bell costs at most this. */
const periodMs = 1_000;

export const createPlacer = (ctx: Context): Rhythm => {
  const memory = newPlacementMemory();
  const loop = rhythm({
    name: "placer",
    periodMs,
    turn: () => placeStages(ctx, memory),
    onError: turnFailed(ctx.log, "placer"),
  });
  return listening(loop, () => ctx.bus.on("ready", loop.ring));
};
