// What the streams of this replica must hear of even when every bell is lost: work that waits for their hosts, and that they are not
// accepted any more. One statement each a turn, whatever the number of hosts.
import { hostsWithWaiting, type RefusedRow, refusedLately } from "../store/watch.ts";
import type { Context } from "./context.ts";

/** Ids of hosts of this replica that have unsent offers, stops, or work to give back. */
export const waitingHosts = (ctx: Context): Promise<readonly string[]> =>
  hostsWithWaiting(ctx.db.direct, ctx.replica, ctx.timings.offerMs);

/**
 * Sessions that are over, as facts of the last `windowMs`: give the time since the last look that was answered, and a margin for
 * transactions that were still open then. The same fact may come again and names sessions that this replica does not hold.
 */
export const refusedSessions = (ctx: Context, r: { readonly windowMs: number }): Promise<readonly RefusedRow[]> =>
  refusedLately(ctx.db.direct, ctx.replica, r.windowMs);
