// Rows of pool valves, and the pulse of loops that judge silence. A closed valve (opened_at is null) keeps the leases of its pool
// from being given away; the reaper's statement reads it. When it closes and opens is domain/valve.ts's.
import type { PoolFacts } from "../domain/valve.ts";
import type { Tx } from "./database.ts";

type PoolRow = Omit<PoolFacts, "valve"> & {
  readonly hasValve: boolean;
  readonly isClosed: boolean;
  readonly opensInMs: number;
  readonly openedAgoMs: number | null;
};
/** Facts of every pool that has hosts worth counting, or ever had a valve. */
export const readPools = async (
  tx: Tx,
  r: { readonly suspectMs: number; readonly windowMs: number },
): Promise<PoolFacts[]> => {
  const { rows } = await tx.query<PoolRow>(
    `with t as materialized (select clock_timestamp() as now, make_interval(secs => $1::float8 / 1000) as suspect,
                                    make_interval(secs => $2::float8 / 1000) as span),
          counted as (
            select h.pool, count(*)::int as hosts, count(*) filter (where h.last_seen_at < t.now - t.suspect)::int as silent
            from t cross join hosts h left join pool_valves v on v.pool = h.pool and v.opened_at is null
            where h.intent not in ('revoked', 'quarantined', 'maintenance') and h.left_at is null
              and h.last_seen_at > coalesce(v.closed_at, t.now) - t.suspect - t.span
            group by h.pool)
     select coalesce(c.pool, v.pool) as pool, coalesce(c.hosts, 0) as hosts, coalesce(c.silent, 0) as silent,
            v.pool is not null as "hasValve", v.pool is not null and v.opened_at is null as "isClosed",
            coalesce(extract(epoch from v.opens_at - t.now) * 1000, 0)::float8 as "opensInMs",
            (extract(epoch from t.now - v.opened_at) * 1000)::float8 as "openedAgoMs"
     from t cross join (counted c full join pool_valves v on v.pool = c.pool)
     order by 1`,
    [r.suspectMs, r.windowMs],
  );
  return rows.map(({ pool, hosts, silent, hasValve, isClosed, opensInMs, openedAgoMs }) => ({
    pool,
    hosts,
    silent,
    valve: hasValve ? { isClosed, opensInMs, openedAgoMs } : null,
  }));
};

/** When it opens by itself; undefined: it is closed already. */
export const closeValve = async (
  tx: Tx,
  r: { readonly pool: string; readonly valveMs: number; readonly reason: string },
): Promise<Date | undefined> =>
  (
    await tx.query<{ opensAt: Date }>(
      `insert into pool_valves as v (pool, opens_at, reason)
       values ($1, clock_timestamp() + make_interval(secs => $2::float8 / 1000), $3)
       on conflict (pool) do update set closed_at = clock_timestamp(), opens_at = excluded.opens_at, reason = excluded.reason,
         opened_at = null, opened_by = ''
       where v.opened_at is not null
       returning opens_at as "opensAt"`,
      [r.pool, r.valveMs, r.reason],
    )
  ).rows[0]?.opensAt;

/** False: it is open. */
export const openValveRow = async (tx: Tx, pool: string, by: string): Promise<boolean> =>
  (
    await tx.query(
      `update pool_valves set opened_at = clock_timestamp(), opened_by = $2 where pool = $1 and opened_at is null`,
      [pool, by],
    )
  ).rowCount > 0;

/** Hosts of a pool that came back are not alone: the others get the whole time of a lease again to follow. */
export const restartLeasesOfPool = async (tx: Tx, pool: string, leaseMs: number): Promise<number> =>
  (
    await tx.query(
      `with held as materialized (
         select a.id from attempts a join hosts h on h.id = a.host_id where h.pool = $1 and a.state = 'running'
         order by a.id for no key update of a)
       update attempts a set lease_until = greatest(a.lease_until, clock_timestamp() + make_interval(secs => $2::float8 / 1000))
       from held where a.id = held.id and a.state = 'running'`,
      [pool, leaseMs],
    )
  ).rowCount;

export type ValveRow = {
  readonly pool: string;
  readonly closedAt: Date;
  readonly opensAt: Date;
  readonly reason: string;
};
export const listClosedValves = async (tx: Tx): Promise<ValveRow[]> =>
  (
    await tx.query<ValveRow>(
      `select pool, closed_at as "closedAt", opens_at as "opensAt", reason from pool_valves where opened_at is null order by pool`,
    )
  ).rows;

export const poolExists = async (tx: Tx, pool: string): Promise<boolean> =>
  (await tx.query(`select 1 from hosts where pool = $1 limit 1`, [pool])).rowCount > 0;

export type Pulse = {
  /** Since the turn before this one; 0 at the very first. */
  readonly pauseMs: number;
  /** How long turns have come without a gap; 0 when this one ended a gap. */
  readonly hearingMs: number;
};
/**
 * Notes a turn of a loop, whichever replica leads it, by the database's clock. A gap means that nobody could judge: the database, or
 * every replica, was away.
 */
export const beatPulse = async (tx: Tx, name: string, gapMs: number): Promise<Pulse> =>
  (
    await tx.query<Pulse>(
      `with before as materialized (select at, clock_timestamp() as now from (select 1) one left join pulses on name = $1),
            beat as (
              insert into pulses as p (name, at, since) select $1, now, now from before
              on conflict (name) do update set at = excluded.at,
                since = case when excluded.at - p.at > make_interval(secs => $2::float8 / 1000) then excluded.at else p.since end
              returning at, since)
       select coalesce(greatest(0, extract(epoch from b.now - b.at)) * 1000, 0)::float8 as "pauseMs",
              (extract(epoch from beat.at - beat.since) * 1000)::float8 as "hearingMs"
       from before b, beat`,
      [name, gapMs],
    )
  ).rows[0] as Pulse;
