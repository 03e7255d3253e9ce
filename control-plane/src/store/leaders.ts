// Rows of leaders: who runs a loop, and under which term. The term grows with every change of the holder and after every lease that
// ran out, so "my term is still the row's" means that nobody else has led since. Clocks of processes decide nothing here.
// Invariant: a transaction that begins with holdsLead keeps the row shared until it ends, so no successor can begin before it.
import type { Tx } from "./database.ts";

/** `term`: the caller leads under it; null: somebody else does. `freeInMs`: what is left of the lease that was found. */
export type LeadAnswer = { readonly term: bigint | null; readonly freeInMs: number | null };

/**
 * Takes or renews the lead. One that another replica holds is only read, so that waiting costs no lock and no write: an upsert
 * that decides inside "on conflict" would lock the row of the leader once a beat for every replica.
 */
export const upsertLead = async (
  tx: Tx,
  r: { readonly loop: string; readonly holder: string; readonly leaseMs: number },
): Promise<LeadAnswer> => {
  const { rows } = await tx.query<LeadAnswer>(
    `with found as (select holder, lease_until from leaders where loop = $1),
          taken as (
            insert into leaders (loop, holder, term, lease_until)
            select $1, $2, 1, clock_timestamp() + $3 * interval '1 millisecond'
            where not exists (select 1 from found where holder <> $2 and lease_until >= clock_timestamp())
            on conflict (loop) do update set
              holder = excluded.holder,
              term = leaders.term + case when leaders.holder = excluded.holder and leaders.lease_until > clock_timestamp() then 0 else 1 end,
              lease_until = clock_timestamp() + $3 * interval '1 millisecond'
            where leaders.lease_until < clock_timestamp() or leaders.holder = excluded.holder
            returning term)
     select (select term from taken) as term,
            (select (extract(epoch from lease_until - clock_timestamp()) * 1000)::float8 from found) as "freeInMs"`,
    [r.loop, r.holder, r.leaseMs],
  );
  return rows[0] ?? { term: null, freeInMs: null };
};

/** First statement of every transaction of a turn. False: roll back, this is no longer the leader. */
export const holdsLead = async (
  tx: Tx,
  r: { readonly loop: string; readonly holder: string; readonly term: bigint },
): Promise<boolean> =>
  (
    await tx.query(
      `select 1 from leaders where loop = $1 and holder = $2 and term = $3 and lease_until > clock_timestamp() for share`,
      [r.loop, r.holder, r.term],
    )
  ).rowCount > 0;

/** The row stays, ended: its term must go on growing. */
export const endLead = async (
  tx: Tx,
  r: { readonly loop: string; readonly holder: string; readonly term: bigint },
): Promise<boolean> =>
  (
    await tx.query(
      `update leaders set lease_until = clock_timestamp() - interval '1 millisecond'
       where loop = $1 and holder = $2 and term = $3 and lease_until > clock_timestamp()`,
      [r.loop, r.holder, r.term],
    )
  ).rowCount > 0;

/** Leads of processes that are known to be gone. */
export const endLeadsOf = async (tx: Tx, holders: readonly string[]): Promise<number> =>
  (
    await tx.query(
      `update leaders set lease_until = clock_timestamp() - interval '1 millisecond'
       where holder = any($1) and lease_until > clock_timestamp()`,
      [holders],
    )
  ).rowCount;
