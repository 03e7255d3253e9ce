// Tells what changed about hosts without anybody doing anything: silence, its end, a drain that is done. Each is one event an
// episode, in the transaction that notes it as told. After an outage of ours silence is not told at once: we could not have heard.
import { presenceEvent, presenceOf } from "../domain/presence.ts";
import { appendEvents, type NewEvent } from "../store/events.ts";
import { drainsAreOver, endDrains, hostsToGiveBack, hostsToTell, noteTold } from "../store/host-watch.ts";
import { lockPlacement } from "../store/placement.ts";
import { beatPulse } from "../store/valves.ts";
import type { Context } from "./context.ts";

/** Turns that are further apart than this many beats mean that nobody was there to hear. */
export const deafBeats = 2;
/** Silence counts once we have listened for so many beats longer than it takes to be suspect. */
export const listenBeats = 1;

/** Answers how many events it wrote. */
export const watchHosts = async (ctx: Context): Promise<number> => {
  const { timings } = ctx;
  const events = await ctx.db.transaction(async (tx) => {
    const { hearingMs } = await beatPulse(tx, "hosts", timings.heartbeatMs * deafBeats);
    const isDeaf = hearingMs < timings.suspectMs + timings.heartbeatMs * listenBeats;
    const changes = (await hostsToTell(tx, timings.suspectMs)).flatMap((host) => {
      const now = presenceOf(host, timings);
      const type = presenceEvent(host.told, now);
      return type === undefined || (isDeaf && now !== "online") ? [] : [{ ...host, now, type }];
    });
    const first = await noteTold(tx, changes);
    const told = changes
      .filter(({ id }) => first.has(id))
      .map(({ id, name, pool, silentMs, type }): NewEvent => {
        const body = { name, pool, silent_seconds: Math.round((silentMs ?? 0) / 100) / 10 };
        return { type, hostId: id, body };
      });
    await appendEvents(tx, told);
    return told;
  });
  events.push(...(await tellDrained(ctx)));
  for (const { type, hostId } of events) ctx.log[type === "host.suspect" ? "warn" : "info"]({ host: hostId }, type);
  if (events.length > 0) ctx.bus.ring("events");
  for (const host of await hostsToGiveBack(ctx.db.direct)) ctx.bus.ring(`host:${host}`);
  return events.length;
};

/**
 * Drains that are done. A placement that read the host while it was open may still write an offer for it, and a person who reads
 * "drained" turns the host off: so no placement is in work while this is decided, and those that follow know of the drain.
 */
const tellDrained = async (ctx: Context): Promise<readonly NewEvent[]> => {
  if (!(await drainsAreOver(ctx.db.direct))) return [];
  return ctx.db.transaction(async (tx) => {
    await lockPlacement(tx);
    const drained = (await endDrains(tx)).map(
      ({ id, name }): NewEvent => ({ type: "host.drained", hostId: id, body: { name } }),
    );
    await appendEvents(tx, drained);
    return drained;
  });
};
