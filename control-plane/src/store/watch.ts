// What a replica must look at without having been told: hosts for which something waits, and sessions that are not accepted any
// more. Both statements begin at the few rows that say so and never at the hosts, so their cost follows what happens, not the
// size of the fleet. Times are compared with a subquery of the clock: a volatile function itself is no index condition.
import type { Tx } from "./database.ts";
import { supersedeMs } from "./identities.ts";

/**
 * Hosts whose stream this replica holds and that have offers unsent in their session, stops, or work to give back. An offer's lease
 * ends within `offerMs` and a renewed one lies behind that, so a range of the leases finds the offers.
 */
export const hostsWithWaiting = async (tx: Tx, replica: string, offerMs: number): Promise<string[]> =>
  (
    await tx.query<{ id: string }>(
      `select a.host_id as id from attempts a join hosts h on h.id = a.host_id
       where a.state = 'offered' and h.replica = $1 and a.offered_epoch is distinct from h.epoch
         and a.lease_until > (select clock_timestamp())
         and a.lease_until <= (select clock_timestamp() + make_interval(secs => $2::float8 / 1000))
       union
       select a.host_id from stages s join attempts a on a.stage_id = s.id and a.state <> 'ended' join hosts h on h.id = a.host_id
       where s.state = 'cancelling' and h.replica = $1
       union
       select h.id from hosts h
       where h.replica = $1 and h.intent = 'draining' and h.drain_until < clock_timestamp()
         and exists (select 1 from attempts a where a.host_id = h.id and a.state = 'running')`,
      [replica, offerMs],
    )
  ).rows.map((row) => row.id);

export type RefusedRow = {
  readonly hostId: string;
  /** Sessions of an older epoch are over; null: any session. */
  readonly epoch: bigint | null;
  /** Only the session under this certificate; null: any. */
  readonly serial: string | null;
  readonly why: "moved" | "revoked" | "copied" | "replaced";
};

/**
 * What was refused within the last `windowMs`, for the sessions that are open here to be compared with: hosts that opened a session
 * at another replica, hosts that were revoked or copied, and certificates that were revoked or whose successor is in use.
 */
export const refusedLately = async (tx: Tx, replica: string, windowMs: number): Promise<RefusedRow[]> =>
  (
    await tx.query<RefusedRow>(
      `select s.host_id as "hostId", max(s.epoch) as epoch, null as serial, 'moved' as why from host_sessions s
       where s.opened_at > (select clock_timestamp() - make_interval(secs => $2::float8 / 1000)) and s.replica <> $1 group by s.host_id
       union all
       select h.id, null, null, case when h.intent = 'revoked' then 'revoked' else 'copied' end from hosts h
       where h.replica = $1 and (h.intent = 'revoked' or h.copied_at is not null)
       union all
       select c.host_id, null, c.serial, 'revoked' from certificates c
       where c.revoked_at > (select clock_timestamp() - make_interval(secs => $2::float8 / 1000))
       union all
       select c.host_id, null, c.serial, 'replaced' from certificates c
       where c.superseded_at <= (select clock_timestamp() - make_interval(secs => $3::float8 / 1000))
         and c.superseded_at > (select clock_timestamp() - make_interval(secs => ($2 + $3)::float8 / 1000))
         and (select max(n.first_used_at) from certificates n where n.host_id = c.host_id and n.serial <> c.serial) >= c.superseded_at`,
      [replica, windowMs, supersedeMs],
    )
  ).rows;
