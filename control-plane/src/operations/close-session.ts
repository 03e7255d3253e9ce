// The stream of a host is gone. Its work goes on until the leases run out; only its presence changes here.
import { appendEvents } from "../store/events.ts";
import { closeHostSession } from "../store/hosts.ts";
import type { Context } from "./context.ts";

export const closeSession = async (
  ctx: Context,
  r: { readonly hostId: string; readonly epoch: bigint },
): Promise<void> => {
  await ctx.db.transaction(async (tx) => {
    if (await closeHostSession(tx, r.hostId, r.epoch))
      await appendEvents(tx, [{ type: "host.offline", hostId: r.hostId, body: { epoch: String(r.epoch) } }]);
  });
  ctx.bus.ring("events");
};
