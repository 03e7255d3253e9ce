// Rows of replicas, one a running process of the control plane, and the sessions that a gone one left open. A replica that was silent
// is gone for routing only: about its hosts nothing is decided but their presence; their own heartbeats decide about their work.
// Locks rows of hosts in the order of their ids, as placement and heartbeats do.
import type { Tx } from "./database.ts";

export type ReplicaSelf = {
  readonly id: string;
  readonly name: string;
  readonly version: string;
  readonly agentAddress: string;
  readonly httpAddress: string;
};
export type ReplicaRow = {
  readonly id: string;
  readonly name: string;
  readonly agentAddress: string;
  readonly httpAddress: string;
  readonly sessions: number;
  readonly silentMs: number;
  /** One of its connections to this database is open, as far as the server's list of sessions says. */
  readonly isConnected: boolean;
};

/** What a replica calls itself to PostgreSQL. The server cuts names at 63 bytes, so the part that is unique comes first. */
export const applicationName = (id: string): string => `renderplane ${id.slice(-8)} ${id.slice(0, -9)}`.slice(0, 63);

/** True: the row was not there, because this is the start or because others took this replica for gone. */
export const beatReplica = async (tx: Tx, self: ReplicaSelf): Promise<boolean> =>
  (
    await tx.query<{ isNew: boolean }>(
      `insert into replicas as r (id, name, version, agent_address, http_address) values ($1, $2, $3, $4, $5)
       on conflict (id) do update set last_seen_at = clock_timestamp(), agent_address = excluded.agent_address,
         http_address = excluded.http_address, sessions = (select count(*) from hosts where replica = $1)
       returning xmax = 0 as "isNew"`,
      [self.id, self.name, self.version, self.agentAddress, self.httpAddress],
    )
  ).rows[0]?.isNew === true;

export const removeReplicas = async (tx: Tx, ids: readonly string[]): Promise<void> => {
  await tx.query(`delete from replicas where id = any($1)`, [ids]);
};

/** Every replica but this one, the longest silent last. */
export const otherReplicas = async (tx: Tx, id: string): Promise<ReplicaRow[]> =>
  (
    await tx.query<ReplicaRow>(
      `select r.id, r.name, r.agent_address as "agentAddress", r.http_address as "httpAddress", r.sessions,
         (extract(epoch from clock_timestamp() - r.last_seen_at) * 1000)::float8 as "silentMs",
         exists (select 1 from pg_stat_activity a where a.datname = current_database()
           and starts_with(a.application_name, 'renderplane ' || right(r.id, 8) || ' ')) as "isConnected"
       from replicas r where r.id <> $1 order by r.last_seen_at desc`,
      [id],
    )
  ).rows;

/** Rows but the caller's that were silent for so long are removed; answers their ids. One that beats at this moment stays. */
export const removeSilentReplicas = async (tx: Tx, self: string, silentMs: number): Promise<string[]> =>
  (
    await tx.query<{ id: string }>(
      `delete from replicas where id <> $1 and last_seen_at < clock_timestamp() - $2 * interval '1 millisecond' returning id`,
      [self, silentMs],
    )
  ).rows.map((row) => row.id);

/** Holders of sessions that have no row: killed before they said goodbye, or of a version without rows. */
export const unknownHolders = async (tx: Tx): Promise<string[]> =>
  (
    await tx.query<{ replica: string }>(
      `select distinct replica from hosts where replica is not null and not exists (select 1 from replicas r where r.id = hosts.replica)`,
    )
  ).rows.map((row) => row.replica);

/** Sessions of replicas that are gone; answers whose they were. Work goes on: only the presence of these hosts changes. */
export const closeSessionsOfReplicas = async (
  tx: Tx,
  replicas: readonly string[],
): Promise<{ readonly hostId: string; readonly epoch: bigint }[]> =>
  (
    await tx.query<{ hostId: string; epoch: bigint }>(
      `with held as materialized (select id from hosts where replica = any($1) order by id for no key update),
            closed as (update hosts h set replica = null from held where h.id = held.id returning h.id, h.epoch),
            ended as (update host_sessions s set closed_at = clock_timestamp() from closed c
              where s.host_id = c.id and s.epoch = c.epoch and s.closed_at is null)
       select id as "hostId", epoch from closed order by id`,
      [replicas],
    )
  ).rows;
