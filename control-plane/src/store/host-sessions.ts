// The sessions of hosts: opening and closing one is one statement each, so that a herd of hosts costs a round trip a host.
// The epoch grows with every session; a write under an older one moves nothing. Whether a certificate is good is judged in the
// same statement (identities.ts has the rules in one place).
import type { AttemptOutcome, AttemptState } from "@renderplane/proto/kernel/stage-state.ts";
import type { InventoryRecord } from "../domain/records.ts";
import type { Tx } from "./database.ts";
import { certificateStanding, type Standing } from "./identities.ts";

export type OpenedSession = {
  readonly standing: Standing;
  /** Undefined: refused, and nothing was written. */
  readonly epoch: bigint | undefined;
  /** Instances that held the identity lately, oldest first, the new one last. */
  readonly instances: readonly string[];
  /** Attempts of the host that are live, or that it says it holds. */
  readonly attempts: readonly HostAttempt[];
};
export type HostAttempt = {
  readonly id: string;
  readonly fence: bigint;
  readonly state: AttemptState;
  readonly outcome: AttemptOutcome | null;
};
type OpenedRow = {
  readonly standing: Standing;
  readonly epoch: bigint | null;
  readonly instances: readonly string[] | null;
  /** A fence as text: JSON has no bigint. */
  readonly attempts: readonly (Omit<HostAttempt, "fence"> & { readonly fence: string })[] | null;
};

/** Instances that are looked at; more sessions than this within the window are a storm, not a history. */
const maxInstances = 32;

/**
 * What is read here is as old as the statement's beginning: a session that another replica opens at this moment is seen by the
 * next one, and an attempt that begins under a later epoch is not this session's to judge.
 */
export const openHostSession = async (
  tx: Tx,
  r: {
    readonly hostId: string;
    readonly serial: string;
    readonly replica: string;
    readonly instanceId: string;
    readonly agentVersion: string;
    readonly inventory: InventoryRecord;
    /** How far back instances are looked at. */
    readonly windowMs: number;
    readonly heldIds: readonly string[];
  },
): Promise<OpenedSession> => {
  const { rows } = await tx.query<OpenedRow>(
    `with certificate as (${certificateStanding("$1", "$2")}),
          opened as (
            update hosts set epoch = epoch + 1, replica = $3, instance_id = $4, agent_version = $5, inventory = $6,
              last_seen_at = clock_timestamp(), told_presence = 'online', left_at = null
            where id = $2 and intent <> 'revoked' and copied_at is null and (select standing from certificate) = 'good'
            returning id, epoch),
          closed as (
            update host_sessions s set closed_at = clock_timestamp() from opened o
            where s.host_id = o.id and s.closed_at is null and s.epoch < o.epoch),
          begun as (insert into host_sessions (host_id, epoch, instance_id, replica) select id, epoch, $4, $3 from opened),
          used as (
            update certificates set first_used_at = clock_timestamp()
            where serial = $1 and first_used_at is null and exists (select 1 from opened)),
          told as (
            insert into events (type, host_id, body)
            select 'host.online', id, jsonb_build_object('epoch', epoch::text, 'agent_version', $5::text) from opened)
     select coalesce((select standing from certificate), 'unknown') as standing, (select epoch from opened) as epoch,
            (select array_agg(i.instance_id order by i.epoch) from (
               select instance_id, epoch from host_sessions
               where host_id = $2 and opened_at > clock_timestamp() - make_interval(secs => $7::float8 / 1000)
               order by epoch desc limit ${maxInstances}) i) as instances,
            (select jsonb_agg(jsonb_build_object('id', a.id, 'fence', a.fence::text, 'state', a.state, 'outcome', a.outcome))
             from attempts a where a.host_id = $2 and a.state <> 'ended' or a.id = any($8::text[]) and a.host_id = $2) as attempts`,
    [r.serial, r.hostId, r.replica, r.instanceId, r.agentVersion, JSON.stringify(r.inventory), r.windowMs, r.heldIds],
  );
  const row = rows[0];
  if (!row) return { standing: "unknown", epoch: undefined, instances: [], attempts: [] };
  return {
    // Good a moment ago, and yet the host took no session: it was revoked or copied meanwhile.
    standing: row.epoch === null && row.standing === "good" ? "revoked" : row.standing,
    epoch: row.epoch ?? undefined,
    instances: [...(row.instances ?? []), r.instanceId],
    attempts: (row.attempts ?? []).map((attempt) => ({ ...attempt, fence: BigInt(attempt.fence) })),
  };
};

/** True when this epoch was the open one; the event says so once. */
export const closeHostSession = async (
  tx: Tx,
  r: { readonly hostId: string; readonly epoch: bigint; readonly saidGoodbye: boolean },
): Promise<boolean> =>
  (
    await tx.query(
      `with ended as (
         update host_sessions set closed_at = clock_timestamp() where host_id = $1 and epoch = $2 and closed_at is null),
       before as materialized (select id, told_presence from hosts where id = $1 and epoch = $2 and replica is not null for no key update),
       closed as (
         update hosts h set replica = null, told_presence = 'offline', left_at = case when $3 then clock_timestamp() end
         from before where h.id = before.id returning h.id),
       told as (
         insert into events (type, host_id, body)
         select 'host.offline', id, jsonb_build_object('epoch', $2::bigint::text, 'reason', case when $3 then 'goodbye' else 'stream_ended' end)
         from before where told_presence <> 'offline')
       select 1 from closed`,
      [r.hostId, r.epoch, r.saidGoodbye],
    )
  ).rowCount > 0;

export type HostSessionRow = {
  readonly epoch: bigint;
  readonly instanceId: string;
  readonly replica: string;
  readonly openedAt: Date;
  readonly closedAt: Date | null;
};
/** The newest first. */
export const listHostSessions = async (tx: Tx, hostId: string, limit: number): Promise<HostSessionRow[]> =>
  (
    await tx.query<HostSessionRow>(
      `select epoch, instance_id as "instanceId", replica, opened_at as "openedAt", closed_at as "closedAt"
       from host_sessions where host_id = $1 order by epoch desc limit $2`,
      [hostId, limit],
    )
  ).rows;
