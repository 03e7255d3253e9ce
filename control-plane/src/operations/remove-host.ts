// Takes a host out of the fleet for good and frees its name. Its rows stay, because finished attempts name it; its certificates are
// worth nothing from then on. Only a host that is away and holds nothing can go: what runs must end through its own door.
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { presenceOf } from "../domain/presence.ts";
import { appendEvents } from "../store/events.ts";
import { countHeld, renameHost, setHostIntent } from "../store/hosts.ts";
import type { Context } from "./context.ts";
import { lockFound } from "./set-intent.ts";

/** What a name may have at most, less the suffix. */
const keptLength = 44;

/** Throws host_not_found, host_conflict. */
export const removeHost = async (
  ctx: Context,
  r: { readonly host: string; readonly reason: string; readonly by: string },
): Promise<void> => {
  const host = await ctx.db.transaction(async (tx) => {
    const found = await lockFound(tx, r.host);
    const presence = presenceOf(found, ctx.timings);
    if (presence !== "offline")
      throw new RenderplaneError(
        "host_conflict",
        `host ${found.name} is ${presence}; stop its agent, or revoke it first`,
      );
    const held = await countHeld(tx, found.id);
    if (held > 0)
      throw new RenderplaneError(
        "host_conflict",
        `host ${found.name} still holds ${held} attempts; they end with their leases, or cancel their jobs`,
      );
    await setHostIntent(tx, {
      hostId: found.id,
      intent: "revoked",
      reason: r.reason,
      giveBackAfterMs: null,
      keepsCopied: false,
    });
    await renameHost(tx, found.id, removedName(found.name, found.id));
    await appendEvents(tx, [
      { type: "host.removed", hostId: found.id, body: { name: found.name, reason: r.reason, by: r.by } },
    ]);
    return found;
  });
  ctx.bus.ring(`host:${host.id}`);
  ctx.bus.ring("events");
  ctx.log.info({ host: host.id, name: host.name, by: r.by }, "host removed");
};

/** Still readable in the history of jobs, and never in the way of a new host. */
export const removedName = (name: string, id: string): string =>
  `${name.slice(0, keptLength)}.removed.${id.slice(-8).toLowerCase()}`;
