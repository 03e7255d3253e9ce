// Moves a host to another pool: the hosts that share a room, a switch or a provider, and so fall silent together.
import type { HostRow } from "../domain/records.ts";
import { appendEvents } from "../store/events.ts";
import { setHostPool } from "../store/hosts.ts";
import type { Context } from "./context.ts";
import { lockFound } from "./set-intent.ts";

/** Throws host_not_found. */
export const setPool = async (
  ctx: Context,
  r: { readonly host: string; readonly pool: string; readonly reason: string; readonly by: string },
): Promise<HostRow> => {
  const host = await ctx.db.transaction(async (tx) => {
    const before = await lockFound(tx, r.host);
    if (before.pool === r.pool) return before;
    await setHostPool(tx, before.id, r.pool);
    const body = { name: before.name, from: before.pool, pool: r.pool, reason: r.reason, by: r.by };
    await appendEvents(tx, [{ type: "host.moved", hostId: before.id, body }]);
    return { ...before, pool: r.pool };
  });
  ctx.bus.ring("events");
  return host;
};
