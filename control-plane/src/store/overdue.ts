// Offers and leases whose time is up, as far as they may be given away now: not those of a pool whose valve is closed, and of each
// pool the longest silent hosts only, so that one blow is not answered by moving everything at once. A host's attempts go together.
import type { Tx } from "./database.ts";

export type Overdue = {
  readonly id: string;
  readonly fence: bigint;
  readonly hostId: string;
  readonly outcome: "expired" | "lost";
};

/** Offers past their time, and leases past their time and the grace. Live attempts are few: they are found by their host. */
export const overdueLeases = async (
  tx: Tx,
  r: {
    readonly graceMs: number;
    /** So many hosts of a pool within the window. */
    readonly hosts: number;
    readonly windowMs: number;
    readonly limit: number;
  },
): Promise<Overdue[]> =>
  (
    await tx.query<Overdue>(
      `with due as materialized (
         select a.id, a.fence, a.host_id, a.state, a.lease_until, h.pool,
                coalesce(h.lost_at > clock_timestamp() - make_interval(secs => $2::float8 / 1000), false) as is_begun
         from attempts a join hosts h on h.id = a.host_id
         where a.state <> 'ended' and a.lease_until < clock_timestamp()
           and (a.state = 'offered' or a.lease_until < clock_timestamp() - make_interval(secs => $1::float8 / 1000)
             and not exists (select 1 from pool_valves v where v.pool = h.pool and v.opened_at is null))),
       begun as (
         select pool, count(*) as hosts from hosts where lost_at > clock_timestamp() - make_interval(secs => $2::float8 / 1000) group by pool),
       turn as (
         select host_id, pool, row_number() over (partition by pool order by min(lease_until), host_id) as place
         from due where state <> 'offered' and not is_begun group by host_id, pool)
       select due.id, due.fence, due.host_id as "hostId", case when due.state = 'offered' then 'expired' else 'lost' end as outcome
       from due left join turn on turn.host_id = due.host_id left join begun on begun.pool = due.pool
       where due.state = 'offered' or due.is_begun or turn.place <= $3 - coalesce(begun.hosts, 0)
       order by due.lease_until limit $4`,
      [r.graceMs, r.windowMs, r.hosts, r.limit],
    )
  ).rows;

/** The hosts' work is given away from now on; one that has begun keeps its time. */
export const markLost = async (tx: Tx, hostIds: readonly string[], windowMs: number): Promise<void> => {
  await tx.query(
    `with held as materialized (
       select id from hosts
       where id = any($1::text[]) and (lost_at is null or lost_at <= clock_timestamp() - make_interval(secs => $2::float8 / 1000))
       order by id for no key update)
     update hosts h set lost_at = clock_timestamp() from held where h.id = held.id`,
    [hostIds, windowMs],
  );
};
