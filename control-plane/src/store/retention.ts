// Removes what is older than it is kept, a bounded part at a time, oldest first; answers how much, so that the caller knows whether
// there may be more. Events that were not published, jobs that are open, and whatever somebody else holds stay for another turn.
// Invariant: a job leaves its sums in history_days in the statement that removes it, so it is counted once, whatever dies when.
import type { Tx } from "./database.ts";

/** Ended jobs past their time, locked. Without a wait: a job that is being read again for a repeated answer is taken next time. */
export const lockEndedJobs = async (tx: Tx, keepMs: number, limit: number): Promise<string[]> =>
  (
    await tx.query<{ id: string }>(
      `select j.id from jobs j
       where j.ended_at < (select clock_timestamp() - make_interval(secs => $1::float8 / 1000))
         and not exists (select 1 from events e where e.job_id = j.id and e.published_seq is null)
       order by j.ended_at limit $2 for update of j skip locked`,
      [keepMs, limit],
    )
  ).rows.map((row) => row.id);

/** In the order of the references between them: the cascade of each row then finds nothing, which is cheaper than doing it. */
const tablesOfJobs = ["events", "ledger", "files", "attempts", "stages", "idempotency"] as const;

/** Answers how many jobs are gone. They must be locked by this transaction. */
export const removeJobs = async (tx: Tx, ids: readonly string[]): Promise<number> => {
  if (ids.length === 0) return 0;
  for (const table of tablesOfJobs) await tx.query(`delete from ${table} where job_id = any($1::text[])`, [ids]);
  const { rows } = await tx.query<{ removed: number }>(
    `with gone as (
       delete from jobs where id = any($1::text[]) and ended_at is not null
       returning (ended_at at time zone 'utc')::date as day, pipeline, complexity, state, spent_micros,
                 extract(epoch from ended_at - coalesce(started_at, ended_at))::float8 as seconds),
     kept as (
       insert into history_days as h (day, pipeline, complexity, jobs, completed, failed, cancelled, seconds, micros)
       select day, pipeline, complexity, count(*), count(*) filter (where state = 'completed'), count(*) filter (where state = 'failed'),
              count(*) filter (where state = 'cancelled'), sum(seconds), sum(spent_micros)
       from gone group by 1, 2, 3 order by 1, 2, 3
       on conflict (day, pipeline, complexity) do update set jobs = h.jobs + excluded.jobs, completed = h.completed + excluded.completed,
         failed = h.failed + excluded.failed, cancelled = h.cancelled + excluded.cancelled, seconds = h.seconds + excluded.seconds,
         micros = h.micros + excluded.micros)
     select count(*)::int as removed from gone`,
    [ids],
  );
  return rows[0]?.removed ?? 0;
};

/** Events of hosts. The newest number stays, so that a reader that has seen it is not taken for one from the future. */
export const removeHostEvents = async (tx: Tx, keepMs: number, limit: number): Promise<number> =>
  (
    await tx.query(
      `delete from events where id in (
         select id from events
         where job_id is null and at < (select clock_timestamp() - make_interval(secs => $1::float8 / 1000))
           and published_seq < (select max(published_seq) from events)
         order by at limit $2 for update skip locked)`,
      [keepMs, limit],
    )
  ).rowCount;

/** Sessions that have ended; the newest of a host stays, whenever it was. */
export const removeSessions = async (tx: Tx, keepMs: number, limit: number): Promise<number> =>
  (
    await tx.query(
      `delete from host_sessions where (host_id, epoch) in (
         select s.host_id, s.epoch from host_sessions s join hosts h on h.id = s.host_id
         where s.opened_at < (select clock_timestamp() - make_interval(secs => $1::float8 / 1000))
           and s.closed_at < (select clock_timestamp() - make_interval(secs => $1::float8 / 1000)) and s.epoch < h.epoch
         order by s.opened_at limit $2 for update of s skip locked)`,
      [keepMs, limit],
    )
  ).rowCount;

/** The age is asked twice: a key that is taken over by a new submission while this waits is young again. */
export const removeKeys = async (tx: Tx, keepMs: number, limit: number): Promise<number> =>
  (
    await tx.query(
      `delete from idempotency where key in (
         select key from idempotency where created_at < (select clock_timestamp() - make_interval(secs => $1::float8 / 1000))
         order by created_at limit $2 for update skip locked)
       and created_at < (select clock_timestamp() - make_interval(secs => $1::float8 / 1000))`,
      [keepMs, limit],
    )
  ).rowCount;

/** Tokens that nobody can use any more: used up, revoked or expired. */
export const removeJoinTokens = async (tx: Tx, keepMs: number, limit: number): Promise<number> =>
  (
    await tx.query(
      `delete from join_tokens where id in (
         select id from join_tokens
         where created_at < clock_timestamp() - make_interval(secs => $1::float8 / 1000)
           and (uses >= max_uses or revoked_at is not null or expires_at < clock_timestamp())
         limit $2 for update skip locked)`,
      [keepMs, limit],
    )
  ).rowCount;

/**
 * Certificates that were replaced. One whose successor was never used is still good (an answer that got lost locks nobody out), so
 * it stays until it has expired, too.
 */
export const removeCertificates = async (tx: Tx, keepMs: number, limit: number): Promise<number> =>
  (
    await tx.query(
      `delete from certificates where serial in (
         select c.serial from certificates c
         where c.superseded_at < clock_timestamp() - make_interval(secs => $1::float8 / 1000)
           and (c.expires_at < clock_timestamp() - make_interval(secs => $1::float8 / 1000) or exists (
             select 1 from certificates n
             where n.host_id = c.host_id and n.serial <> c.serial and n.first_used_at >= c.superseded_at))
         limit $2 for update of c skip locked)`,
      [keepMs, limit],
    )
  ).rowCount;

export type ArtifactPage = {
  /** Removed from the table: no row names them. */
  readonly removed: readonly string[];
  /** Where the page ended; undefined: it was the last one. */
  readonly end: string | undefined;
};
/**
 * A page of all artifacts by digest; those without a name are removed. They are locked first and looked at again after that: who
 * names one holds its row, so nobody does while it goes.
 */
export const removeUnnamedArtifacts = async (
  tx: Tx,
  r: { readonly after: string; readonly keepMs: number; readonly limit: number },
): Promise<ArtifactPage> => {
  const { rows: page } = await tx.query<{ sha256: string; isUnnamed: boolean }>(
    `select a.sha256, a.created_at < clock_timestamp() - make_interval(secs => $2::float8 / 1000) and f.sha256 is null as "isUnnamed"
     from (select sha256, created_at from artifacts where sha256 > $1 order by sha256 limit $3) a
     left join lateral (select sha256 from files where files.sha256 = a.sha256 limit 1) f on true order by a.sha256`,
    [r.after, r.keepMs, r.limit],
  );
  const end = page.length < r.limit ? undefined : page.at(-1)?.sha256;
  const unnamed = page.filter((a) => a.isUnnamed).map((a) => a.sha256);
  if (unnamed.length === 0) return { removed: [], end };
  const { rows: locked } = await tx.query<{ sha256: string }>(
    `select sha256 from artifacts where sha256 = any($1::text[]) order by sha256 for update skip locked`,
    [unnamed],
  );
  const { rows: removed } = await tx.query<{ sha256: string }>(
    `delete from artifacts a where sha256 = any($1::text[]) and not exists (select 1 from files f where f.sha256 = a.sha256)
     returning sha256`,
    [locked.map((a) => a.sha256)],
  );
  return { removed: removed.map((a) => a.sha256), end };
};

/** Those of the digests that no row knows. */
export const unknownArtifacts = async (tx: Tx, digests: readonly string[]): Promise<string[]> =>
  (
    await tx.query<{ sha256: string }>(
      `select d.sha256 from unnest($1::text[]) as d(sha256) where not exists (select 1 from artifacts a where a.sha256 = d.sha256)`,
      [digests],
    )
  ).rows.map((row) => row.sha256);
