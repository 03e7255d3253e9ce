// Rows of jobs. Money columns move only together with ledger rows, in the same transaction (see ledger.ts).
import type { JobState } from "@renderplane/proto/kernel/stage-state.ts";
import type { Micros } from "@renderplane/proto/kernel/units.ts";
import { exactPlaces } from "../domain/queue-order.ts";
import type { Complexity, JobRow, JsonObject } from "../domain/records.ts";
import type { Tx } from "./database.ts";

const columns = `id, external_id as "externalId", pipeline, pipeline_version as "pipelineVersion", user_id as "userId",
  channel_id as "channelId", priority, complexity, rank, not_before as "notBefore", deadline_at as "deadlineAt",
  on_deadline as "onDeadline", state, request, estimated_micros as "estimatedMicros",
  held_micros as "heldMicros", spent_micros as "spentMicros", halt_micros as "haltMicros",
  cancel_requested_at as "cancelRequestedAt", failure, result, created_at as "createdAt", started_at as "startedAt",
  ended_at as "endedAt"`;

export type NewJob = {
  readonly id: string;
  readonly externalId: string | null;
  readonly pipeline: string;
  readonly pipelineVersion: number;
  readonly userId: string;
  readonly channelId: string;
  readonly priority: number;
  readonly complexity: Complexity;
  readonly rank: bigint;
  readonly notBefore: Date | null;
  readonly deadlineAt: Date | null;
  readonly onDeadline: "report" | "cancel";
  readonly request: JsonObject;
  readonly estimatedMicros: Micros;
  readonly haltMicros: Micros;
};

/** False: another job has its external id. */
export const insertJob = async (tx: Tx, job: NewJob): Promise<boolean> => {
  const { rowCount } = await tx.query(
    `insert into jobs (id, external_id, pipeline, pipeline_version, user_id, channel_id, priority, complexity, request, estimated_micros, halt_micros,
                       rank, not_before, deadline_at, on_deadline)
     values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) on conflict (external_id) do nothing`,
    [
      job.id,
      job.externalId,
      job.pipeline,
      job.pipelineVersion,
      job.userId,
      job.channelId,
      job.priority,
      job.complexity,
      JSON.stringify(job.request),
      job.estimatedMicros,
      job.haltMicros,
      job.rank,
      job.notBefore,
      job.deadlineAt,
      job.onDeadline,
    ],
  );
  return rowCount > 0;
};

/** By our id, or by the id that an older client chose. */
export const readJob = async (tx: Tx, id: string): Promise<JobRow | undefined> =>
  (
    await tx.query<JobRow>(
      `select ${columns} from jobs where id = $1 or external_id = $1 order by id = $1 desc limit 1`,
      [id],
    )
  ).rows[0];

/** Newest first. Only the filters that are given stand in the statement, so that each has its index (0003). */
export const listJobs = async (
  tx: Tx,
  filter: {
    readonly state?: JobState | undefined;
    readonly pipeline?: string | undefined;
    readonly userId?: string | undefined;
    readonly channelId?: string | undefined;
    readonly limit: number;
    readonly before?: { readonly createdAt: Date; readonly id: string } | undefined;
  },
): Promise<JobRow[]> => {
  const params: unknown[] = [filter.limit];
  const where: string[] = [];
  const equal = (column: string, value: string | undefined) => {
    if (value !== undefined) where.push(`${column} = $${params.push(value)}`);
  };
  equal("state", filter.state);
  equal("pipeline", filter.pipeline);
  equal("user_id", filter.userId);
  equal("channel_id", filter.channelId);
  if (filter.before)
    where.push(`(created_at, id) < ($${params.push(filter.before.createdAt)}, $${params.push(filter.before.id)})`);
  const { rows } = await tx.query<JobRow>(
    `select ${columns} from jobs ${where.length === 0 ? "" : `where ${where.join(" and ")}`} order by created_at desc, id desc limit $1`,
    params,
  );
  return rows;
};

/** Open jobs, and those of the last day that have ended: each by its own part of an index, never the whole table. */
export const countJobs = async (tx: Tx): Promise<{ state: JobState; count: number }[]> =>
  (
    await tx.query<{ state: JobState; count: number }>(
      `select state, count(*)::int as count from jobs where state in ('queued', 'processing') group by state
       union all
       select state, count(*)::int from jobs where state in ('completed', 'failed', 'cancelled')
         and created_at > clock_timestamp() - interval '24 hours' group by state`,
    )
  ).rows;

/** Jobs that wait, counted up to `most`: more than that answers `most`. */
export const countQueuedJobs = async (tx: Tx, most: number): Promise<number> =>
  (
    await tx.query<{ count: number }>(
      `select count(*)::int as count from (select 1 from jobs where state = 'queued' limit $1) queued`,
      [most],
    )
  ).rows[0]?.count ?? 0;

export const countProcessingJobs = async (tx: Tx): Promise<number> =>
  (await tx.query<{ count: number }>(`select count(*)::int as count from jobs where state = 'processing'`)).rows[0]
    ?.count ?? 0;

/** 1-based among the jobs that wait, exact up to `exactPlaces`, one more for every place behind; -1 when it does not wait. */
export const queuePosition = async (tx: Tx, id: string): Promise<number> => {
  const { rows } = await tx.query<{ rank: bigint }>(`select rank from jobs where id = $1 and state = 'queued'`, [id]);
  return rows[0] ? placeOf(tx, rows[0].rank, id) : -1;
};

/** The place that a rank has, or would have, in the queue; counted as queuePosition does. */
export const placeOf = async (tx: Tx, rank: bigint, id: string): Promise<number> =>
  (
    await tx.query<{ place: number }>(
      `select 1 + count(*)::int as place from
         (select 1 from jobs where state = 'queued' and (rank, id) < ($1, $2) order by rank, id limit $3) ahead`,
      [rank, id, exactPlaces],
    )
  ).rows[0]?.place ?? 1;

export type MissedJob = { readonly id: string; readonly deadlineAt: Date; readonly onDeadline: "report" | "cancel" };
/** Marks open jobs whose deadline has passed, each once; jobs that another operation holds are taken at the next look. */
export const markMissedDeadlines = async (tx: Tx, limit: number): Promise<MissedJob[]> =>
  (
    await tx.query<MissedJob>(
      `update jobs set deadline_missed_at = clock_timestamp() where id in (
         select id from jobs where deadline_missed_at is null and state in ('queued', 'processing') and deadline_at <= (select clock_timestamp())
         order by deadline_at limit $1 for no key update skip locked)
       returning id, deadline_at as "deadlineAt", on_deadline as "onDeadline"`,
      [limit],
    )
  ).rows;

/** Missed, to be cancelled, not cancelled yet. */
export const jobsToCancelByDeadline = async (tx: Tx, limit: number): Promise<string[]> =>
  (
    await tx.query<{ id: string }>(
      `select id from jobs where on_deadline = 'cancel' and deadline_missed_at is not null and cancel_requested_at is null
         and state in ('queued', 'processing') order by deadline_missed_at limit $1`,
      [limit],
    )
  ).rows.map((row) => row.id);

/** Milliseconds until the next deadline; undefined when no open job has one. */
export const nextDeadlineMs = async (tx: Tx): Promise<number | undefined> =>
  (
    await tx.query<{ ms: number | null }>(
      `select extract(epoch from min(deadline_at) - clock_timestamp())::float8 * 1000 as ms
       from jobs where deadline_missed_at is null and state in ('queued', 'processing') and deadline_at is not null`,
    )
  ).rows[0]?.ms ?? undefined;

export const requestJobCancel = async (tx: Tx, id: string): Promise<void> => {
  await tx.query(
    `update jobs set cancel_requested_at = coalesce(cancel_requested_at, clock_timestamp()) where id = $1`,
    [id],
  );
};
