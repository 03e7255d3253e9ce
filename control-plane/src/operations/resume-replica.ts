// A replica starts: it gets its row, and what former processes of its name left behind is cleared at once, because they are known to be
// gone (the database has no connection of theirs). When no other replica could have heard renewals, running leases begin their
// countdown again; when one could, they do not, or rolling restarts would keep a dead host's work for ever.
import type { Tx } from "../store/database.ts";
import { appendEvents } from "../store/events.ts";
import { endLeadsOf } from "../store/leaders.ts";
import {
  beatReplica,
  closeSessionsOfReplicas,
  otherReplicas,
  type ReplicaRow,
  type ReplicaSelf,
  removeReplicas,
  unknownHolders,
} from "../store/replicas.ts";
import type { Context } from "./context.ts";
import { restartCountdown } from "./reap-leases.ts";

export type Resumed = {
  /** Replicas that are up besides this one. */
  readonly others: readonly ReplicaRow[];
};

export const resumeReplica = async (ctx: Context, self: ReplicaSelf): Promise<Resumed> => {
  const others = await ctx.db.transaction(async (tx) => {
    await beatReplica(tx, self);
    const rows = await otherReplicas(tx, self.id);
    const isFormer = (row: ReplicaRow) => row.name === self.name && !row.isConnected;
    const isOurs = (holder: string) => holder === self.name || holder.slice(0, -9) === self.name;
    const gone = rows.filter(isFormer).map((row) => row.id);
    await removeReplicas(tx, gone);
    // Some have no row: they were taken for gone before, or belong to the version that had only the name.
    await clear(ctx, tx, [...gone, ...(await unknownHolders(tx)).filter(isOurs)]);
    return rows.filter((row) => !isFormer(row) && row.silentMs < ctx.timings.replicaMs);
  });
  if (others.length === 0) await restartCountdown(ctx);
  ctx.bus.ring("events");
  return { others };
};

/** Nothing may name a process that is gone: its sessions are closed, the loops that it led are free. */
export const clear = async (ctx: Context, tx: Tx, gone: readonly string[]): Promise<void> => {
  if (gone.length === 0) return;
  await endLeadsOf(tx, gone);
  const closed = await closeSessionsOfReplicas(tx, gone);
  await appendEvents(
    tx,
    closed.map(({ hostId, epoch }) => ({
      type: "host.offline",
      hostId,
      body: { epoch: String(epoch), reason: "its replica is gone" },
    })),
  );
  if (closed.length > 0)
    ctx.log.warn({ replicas: gone, hosts: closed.length }, "sessions of replicas that are gone were closed");
};
