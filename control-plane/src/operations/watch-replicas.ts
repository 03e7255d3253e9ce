// Replicas that fell silent are gone: their rows go, their sessions are closed, so that nothing is sent where nobody listens.
// Their hosts are not judged: most are already at another replica, and the leases of the others run on.
import { removeReplicas, removeSilentReplicas, unknownHolders } from "../store/replicas.ts";
import type { Context } from "./context.ts";
import { clear } from "./resume-replica.ts";

/** Answers how many it removed. */
export const watchReplicas = async (ctx: Context): Promise<number> => {
  const gone = await ctx.db.transaction(async (tx) => {
    const silent = await removeSilentReplicas(tx, ctx.replica, ctx.timings.replicaMs);
    await clear(ctx, tx, [...new Set([...silent, ...(await unknownHolders(tx))])]);
    return silent;
  });
  if (gone.length > 0) {
    ctx.log.warn({ replicas: gone }, "replicas fell silent and were removed");
    ctx.bus.ring("events");
    // What they led is free.
    ctx.bus.ring("lead");
  }
  return gone.length;
};

/** This replica stops: after it nothing names it, and the others need not wait for its silence. */
export const leaveReplica = (ctx: Context): Promise<void> =>
  ctx.db.transaction(async (tx) => {
    await clear(ctx, tx, [ctx.replica]);
    await removeReplicas(tx, [ctx.replica]);
  });
