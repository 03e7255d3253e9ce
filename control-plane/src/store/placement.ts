// What placement reads of hosts: their state at every turn, their inventories only when they changed.
import type { AllocationRecord, HostRow, InventoryRecord } from "../domain/records.ts";
import type { Tx } from "./database.ts";

/** One placement at a time: two would give the same room twice. Ends with the transaction. */
export const lockPlacement = async (tx: Tx): Promise<void> => {
  await tx.query(`select pg_advisory_xact_lock(hashtext('renderplane.placement'))`);
};

/** An inventory changes with a new session and never else. */
export type InventoryMemory = Map<string, { readonly epoch: bigint; readonly inventory: InventoryRecord }>;

/** Every host that is not revoked. Reads inventories that `memory` does not have, and keeps them there. */
export const placeableHosts = async (tx: Tx, memory: InventoryMemory): Promise<HostRow[]> => {
  const { rows } = await tx.query<Omit<HostRow, "inventory"> & { readonly inventory: InventoryRecord | null }>(
    `select h.id, h.name, h.intent, h.intent_reason as "intentReason", h.drain_until as "drainUntil", h.pool, h.grade,
            case when k.id is null then h.inventory end as inventory, h.instance_id as "instanceId", h.agent_version as "agentVersion",
            h.epoch, h.replica, h.health, h.last_seen_at as "lastSeenAt",
            (extract(epoch from clock_timestamp() - h.last_seen_at) * 1000)::float8 as "silentMs", h.created_at as "createdAt"
     from hosts h left join unnest($1::text[], $2::bigint[]) as k(id, epoch) on k.id = h.id and k.epoch = h.epoch
     where h.intent <> 'revoked'`,
    [[...memory.keys()], [...memory.values()].map((known) => known.epoch)],
  );
  return rows.flatMap((row) => {
    const inventory = row.inventory ?? memory.get(row.id)?.inventory;
    if (!inventory) return [];
    memory.set(row.id, { epoch: row.epoch, inventory });
    return [{ ...row, inventory }];
  });
};

/** What live attempts hold. */
export const heldAllocations = async (
  tx: Tx,
): Promise<{ readonly hostId: string; readonly allocation: AllocationRecord }[]> =>
  (
    await tx.query<{ hostId: string; allocation: AllocationRecord }>(
      `select host_id as "hostId", allocation from attempts where state <> 'ended'`,
    )
  ).rows;
