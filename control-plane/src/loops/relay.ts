// Publishes events, at every `events` bell and at least every second.
import { type Rhythm, rhythm } from "@renderplane/proto/kernel/process/rhythm.ts";
import type { EventRow } from "../domain/records.ts";
import type { Context } from "../operations/context.ts";
import { relayEvents } from "../operations/relay-events.ts";
import { listening } from "./listening.ts";
import { turnFailed } from "./turn-failed.ts";

const periodMs = 1_000;
/** Events come in bursts (a result writes four); publishing them together leaves the work itself the processor. */
const gatherMs = 20;

export const createRelay = (ctx: Context, onPublished: (events: readonly EventRow[]) => void): Rhythm => {
  const loop = rhythm({
    name: "relay",
    periodMs,
    gatherMs,
    turn: async () => {
      const events = await relayEvents(ctx);
      if (events.length === 0) return undefined;
      onPublished(events);
      return 0;
    },
    onError: turnFailed(ctx.log, "relay"),
  });
  return listening(loop, () => ctx.bus.on("events", loop.ring));
};
