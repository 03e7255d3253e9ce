// Rows of hosts. The epoch grows with every session; a write under an older one moves nothing.
import type { AllocationRecord, HostRow, InventoryRecord, JsonObject } from "../domain/records.ts";
import type { Tx } from "./database.ts";

const columns = `id, name, intent, intent_reason as "intentReason", drain_until as "drainUntil", pool, grade, inventory, instance_id as "instanceId", agent_version as "agentVersion", epoch, replica,
  health, last_seen_at as "lastSeenAt",
  (extract(epoch from clock_timestamp() - last_seen_at) * 1000)::float8 as "silentMs", created_at as "createdAt"`;

/** False: the name is taken. */
export const insertHost = async (
  tx: Tx,
  host: { readonly id: string; readonly name: string; readonly inventory: InventoryRecord },
): Promise<boolean> =>
  (
    await tx.query(`insert into hosts (id, name, inventory) values ($1, $2, $3) on conflict (name) do nothing`, [
      host.id,
      host.name,
      JSON.stringify(host.inventory),
    ])
  ).rowCount > 0;

export const listHosts = async (tx: Tx): Promise<HostRow[]> =>
  (await tx.query<HostRow>(`select ${columns} from hosts where intent <> 'revoked' order by name`)).rows;

/** Last in the lock order. Placement holds these rows, so that two replicas never give the same room twice. */
export const lockHosts = async (tx: Tx): Promise<HostRow[]> =>
  (await tx.query<HostRow>(`select ${columns} from hosts where intent <> 'revoked' order by id for no key update`))
    .rows;

export const readHost = async (tx: Tx, id: string): Promise<HostRow | undefined> =>
  (await tx.query<HostRow>(`select ${columns} from hosts where id = $1`, [id])).rows[0];

export const openHostSession = async (
  tx: Tx,
  r: {
    readonly hostId: string;
    readonly replica: string;
    readonly instanceId: string;
    readonly agentVersion: string;
    readonly inventory: InventoryRecord;
  },
): Promise<bigint | undefined> =>
  (
    await tx.query<{ epoch: bigint }>(
      `update hosts set epoch = epoch + 1, replica = $2, instance_id = $3, agent_version = $4, inventory = $5, last_seen_at = clock_timestamp()
       where id = $1 and intent <> 'revoked' returning epoch`,
      [r.hostId, r.replica, r.instanceId, r.agentVersion, JSON.stringify(r.inventory)],
    )
  ).rows[0]?.epoch;

/** True when this epoch was the open one. */
export const closeHostSession = async (tx: Tx, hostId: string, epoch: bigint): Promise<boolean> =>
  (
    await tx.query(`update hosts set replica = null where id = $1 and epoch = $2 and replica is not null`, [
      hostId,
      epoch,
    ])
  ).rowCount > 0;

/** Sessions that a replica of this name left open when it was killed. */
export const closeSessionsOf = async (tx: Tx, replica: string): Promise<number> =>
  (await tx.query(`update hosts set replica = null where replica = $1`, [replica])).rowCount;

export const isCurrentEpoch = async (tx: Tx, hostId: string, epoch: bigint): Promise<boolean> =>
  (await tx.query(`select 1 from hosts where id = $1 and epoch = $2 and intent <> 'revoked'`, [hostId, epoch]))
    .rowCount > 0;

/** Answers the hosts whose epoch is still the one that reported. Locks them in the order of placement, which holds them all. */
export const recordHealths = async (
  tx: Tx,
  seen: readonly { readonly hostId: string; readonly epoch: bigint; readonly health: JsonObject }[],
): Promise<string[]> =>
  (
    await tx.query<{ id: string }>(
      `with seen as (select * from unnest($1::text[], $2::bigint[], $3::jsonb[]) as s(id, epoch, health)),
            held as materialized (select id from hosts where id in (select id from seen) order by id for no key update)
       update hosts h set health = s.health, last_seen_at = clock_timestamp() from held join seen s using (id)
       where h.id = s.id and h.epoch = s.epoch and h.intent <> 'revoked' returning h.id`,
      [seen.map((s) => s.hostId), seen.map((s) => s.epoch), seen.map((s) => JSON.stringify(s.health))],
    )
  ).rows.map((row) => row.id);

export type LiveAllocation = {
  readonly hostId: string;
  readonly attemptId: string;
  readonly jobId: string;
  readonly stage: string;
  readonly allocation: AllocationRecord;
};
export const liveAllocations = async (tx: Tx): Promise<LiveAllocation[]> =>
  (
    await tx.query<LiveAllocation>(
      `select a.host_id as "hostId", a.id as "attemptId", a.job_id as "jobId", s.name as stage, a.allocation
       from attempts a join stages s on s.id = a.stage_id where a.state <> 'ended' order by a.fence`,
    )
  ).rows;

/** Every provider that some host, online or not, is configured for. */
export const knownProviders = async (tx: Tx): Promise<string[]> =>
  (
    await tx.query<{ provider: string }>(
      `select distinct jsonb_array_elements_text(inventory -> 'providers') as provider from hosts where intent <> 'revoked'`,
    )
  ).rows.map((row) => row.provider);
