// Publishes events: numbers them in order, then sends the live messages that requirements 002 names. Messages are best effort;
// the numbered rows are what SSE, webhooks and metrics read.
import { announcementsOf } from "../domain/event.ts";
import type { EventRow } from "../domain/records.ts";
import { publishEvents } from "../store/events.ts";
import type { Context } from "./context.ts";

const batchSize = 500;

/** Answers what it published; empty when nothing waits or another replica is at it. */
export const relayEvents = async (ctx: Context): Promise<readonly EventRow[]> => {
  const events = await ctx.db.transaction((tx) => publishEvents(tx, batchSize));
  for (const event of events)
    for (const { channel, message } of announcementsOf(event)) ctx.bus.publish(channel, message);
  if (events.length > 0) ctx.bus.ring("events");
  return events;
};
