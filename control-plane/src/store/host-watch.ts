// What the watch over hosts reads and notes: silence that was not told yet, and drains that have ended. Guarded by the epoch and by
// what was told before, so that two watchers never tell one thing twice.
import type { Presence } from "../domain/presence.ts";
import type { Tx } from "./database.ts";

export type WatchedHost = {
  readonly id: string;
  readonly name: string;
  readonly pool: string;
  readonly epoch: bigint;
  readonly replica: string | null;
  readonly told: Presence;
  readonly silentMs: number | null;
};

/** Hosts with a stream that are silent, or were when it was told last; the others have nothing to tell. */
export const hostsToTell = async (tx: Tx, suspectMs: number): Promise<WatchedHost[]> =>
  (
    await tx.query<WatchedHost>(
      `select id, name, pool, epoch, replica, told_presence as told,
              (extract(epoch from clock_timestamp() - last_seen_at) * 1000)::float8 as "silentMs"
       from hosts where replica is not null and intent <> 'revoked'
         and (told_presence <> 'online' or last_seen_at < clock_timestamp() - make_interval(secs => $1::float8 / 1000))
       order by id`,
      [suspectMs],
    )
  ).rows;

/** Answers the hosts of which this was the first word. One that somebody holds just now is being heard: the next look tells. */
export const noteTold = async (
  tx: Tx,
  changes: readonly { readonly id: string; readonly epoch: bigint; readonly told: Presence; readonly now: Presence }[],
): Promise<ReadonlySet<string>> => {
  if (changes.length === 0) return new Set();
  const { rows } = await tx.query<{ id: string }>(
    `with change as (select * from unnest($1::text[], $2::bigint[], $3::text[], $4::text[]) as c(id, epoch, told, presence)),
          held as materialized (select id from hosts where id in (select id from change) for no key update skip locked)
     update hosts h set told_presence = c.presence from held join change c using (id)
     where h.id = c.id and h.epoch = c.epoch and h.told_presence = c.told and h.replica is not null returning h.id`,
    [changes.map((c) => c.id), changes.map((c) => c.epoch), changes.map((c) => c.told), changes.map((c) => c.now)],
  );
  return new Set(rows.map((row) => row.id));
};

const isDrained = `intent = 'draining' and drained_at is null
  and not exists (select 1 from attempts a where a.host_id = h.id and a.state <> 'ended')`;
/** Some draining host may hold nothing any more; endDrains decides it. */
export const drainsAreOver = async (tx: Tx): Promise<boolean> =>
  (await tx.query(`select 1 from hosts h where ${isDrained} limit 1`)).rowCount > 0;

/** Draining hosts that hold nothing any more, once each. The caller holds the lock of placement. */
export const endDrains = async (tx: Tx): Promise<{ id: string; name: string }[]> =>
  (
    await tx.query<{ id: string; name: string }>(
      `with done as materialized (
         select id from hosts h where ${isDrained} for no key update skip locked)
       update hosts h set drained_at = clock_timestamp() from done
       where h.id = done.id and h.intent = 'draining' and h.drained_at is null returning h.id, h.name`,
    )
  ).rows;

/** Draining hosts past their deadline that still hold something: it is to be given back now. */
export const hostsToGiveBack = async (tx: Tx): Promise<string[]> =>
  (
    await tx.query<{ id: string }>(
      `select id from hosts h where intent = 'draining' and drain_until < clock_timestamp() and replica is not null
         and exists (select 1 from attempts a where a.host_id = h.id and a.state <> 'ended')`,
    )
  ).rows.map((row) => row.id);
