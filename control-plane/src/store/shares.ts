// The clocks of the queue's shares: where the next job of an owner stands at the earliest. One statement reads and moves the
// clocks of all owners of a job; the rows are held until the submission commits, so two jobs never get one place.
// A clock that lies behind now says the same as no row, so idle ones may be removed at any time.
import { maxShareMs, shareKeysOf } from "../domain/queue-order.ts";
import type { Tx } from "./database.ts";

type Owner = { readonly userId: string; readonly channelId: string };

/** The fair place of one more job (Unix ms by the database's clock), and that clock; moves the clocks of its owners. */
export const takeShare = async (tx: Tx, owner: Owner): Promise<{ readonly fairMs: number; readonly nowMs: number }> => {
  const keys = shareKeysOf(owner);
  const { rows } = await tx.query<{ fairMs: number; nowMs: number }>(
    `with clock as (select date_trunc('milliseconds', clock_timestamp()) as now),
     moved as (
       insert into shares (key, next_at)
       select k.key, clock.now + make_interval(secs => k.gap / 1000) from clock, unnest($1::text[], $2::float8[]) as k(key, gap)
       on conflict (key) do update set next_at = least(
         greatest(shares.next_at + (excluded.next_at - (select now from clock)), excluded.next_at),
         (select now from clock) + make_interval(secs => $3::float8 / 1000))
       returning key, next_at)
     select extract(epoch from max(m.next_at - make_interval(secs => k.gap / 1000)))::float8 * 1000 as "fairMs",
            extract(epoch from (select now from clock))::float8 * 1000 as "nowMs"
     from moved m join unnest($1::text[], $2::float8[]) as k(key, gap) on k.key = m.key`,
    [keys.map((k) => k.key), keys.map((k) => k.gapMs), maxShareMs],
  );
  return rows[0] ?? { fairMs: 0, nowMs: 0 };
};

/** The same without moving anything: what an estimate or a refused submission would have got. */
export const peekShare = async (tx: Tx, owner: Owner): Promise<{ readonly fairMs: number; readonly nowMs: number }> =>
  (
    await tx.query<{ fairMs: number; nowMs: number }>(
      `select extract(epoch from greatest(clock_timestamp(), (select max(next_at) from shares where key = any($1::text[]))))::float8 * 1000 as "fairMs",
              extract(epoch from clock_timestamp())::float8 * 1000 as "nowMs"`,
      [shareKeysOf(owner).map((k) => k.key)],
    )
  ).rows[0] ?? { fairMs: 0, nowMs: 0 };

/** Clocks behind now; answers how many were removed. */
export const removeIdleShares = async (tx: Tx, limit: number): Promise<number> =>
  (
    await tx.query(
      `delete from shares where key in (select key from shares where next_at < clock_timestamp() limit $1 for update skip locked)`,
      [limit],
    )
  ).rowCount;
