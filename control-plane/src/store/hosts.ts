// Rows of hosts: what they are, what people want of them, what was seen. The epoch grows with every session (host-sessions.ts);
// a write under an older one moves nothing. A host that was revoked or whose identity was copied writes nothing at all.
import type { AllocationRecord, HostIntent, HostRow, InventoryRecord, JsonObject } from "../domain/records.ts";
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

/**
 * One statement a replica, whatever the number of its hosts. Answers the hosts whose epoch is still the one that reported. Locks them in
 * the order of their ids, like everything else that holds several; no indexed column changes, so that the update stays on its page.
 */
export const recordHealths = async (
  tx: Tx,
  seen: readonly { readonly hostId: string; readonly epoch: bigint; readonly health: JsonObject }[],
): Promise<string[]> =>
  (
    await tx.query<{ id: string }>(
      `with seen as (select * from unnest($1::text[], $2::bigint[], $3::jsonb[]) as s(id, epoch, health)),
            held as materialized (select id from hosts where id in (select id from seen) order by id for no key update)
       update hosts h set health = s.health, last_seen_at = clock_timestamp() from held join seen s using (id)
       where h.id = s.id and h.epoch = s.epoch and h.intent <> 'revoked' and h.copied_at is null returning h.id`,
      [seen.map((s) => s.hostId), seen.map((s) => s.epoch), seen.map((s) => JSON.stringify(s.health))],
    )
  ).rows.map((row) => row.id);

export const findHost = async (tx: Tx, idOrName: string): Promise<HostRow | undefined> =>
  (
    await tx.query<HostRow>(`select ${columns} from hosts where id = $1 or name = $1 order by (id = $1) desc limit 1`, [
      idOrName,
    ])
  ).rows[0];

/** Held until the transaction ends; the last of the lock order. */
export const lockHost = async (tx: Tx, id: string): Promise<HostRow | undefined> =>
  (await tx.query<HostRow>(`select ${columns} from hosts where id = $1 for no key update`, [id])).rows[0];

/** A new intent ends what the one before had begun: its deadline and its drain; the mark of a copied identity, unless it is kept. */
export const setHostIntent = async (
  tx: Tx,
  r: {
    readonly hostId: string;
    readonly intent: HostIntent;
    readonly reason: string;
    /** From now; null: no deadline. */
    readonly giveBackAfterMs: number | null;
    readonly keepsCopied: boolean;
  },
): Promise<void> => {
  await tx.query(
    `update hosts set intent = $2, intent_reason = $3, drain_until = clock_timestamp() + make_interval(secs => $4::float8 / 1000),
       drained_at = null, copied_at = case when $5 then copied_at end
     where id = $1`,
    [r.hostId, r.intent, r.reason, r.giveBackAfterMs, r.keepsCopied],
  );
};

/** Quarantined as a copy; undefined: it is already, or revoked. Answers its name. */
export const markCopied = async (tx: Tx, hostId: string, reason: string): Promise<string | undefined> =>
  (
    await tx.query<{ name: string }>(
      `update hosts set intent = 'quarantined', intent_reason = $2, drain_until = null, drained_at = null, copied_at = clock_timestamp()
       where id = $1 and copied_at is null and intent <> 'revoked' returning name`,
      [hostId, reason],
    )
  ).rows[0]?.name;

/** Its rows stay, because finished work names them; its name is free again. */
export const renameHost = async (tx: Tx, hostId: string, name: string): Promise<void> => {
  await tx.query(`update hosts set name = $2 where id = $1`, [hostId, name]);
};

export const setHostPool = async (tx: Tx, hostId: string, pool: string): Promise<void> => {
  await tx.query(`update hosts set pool = $2 where id = $1`, [hostId, pool]);
};

export const countHeld = async (tx: Tx, hostId: string): Promise<number> =>
  (
    await tx.query<{ count: number }>(
      `select count(*)::int as count from attempts where host_id = $1 and state <> 'ended'`,
      [hostId],
    )
  ).rows[0]?.count ?? 0;

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
