// Rows of jobs. Money columns move only together with ledger rows, in the same transaction (see ledger.ts).
import type { JobState } from "@renderplane/proto/kernel/stage-state.ts";
import type { Micros } from "@renderplane/proto/kernel/units.ts";
import type { Complexity, FailureRecord, JobRow, JsonObject } from "../domain/records.ts";
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

/**
 * First in the lock order: whoever changes a stage or an attempt of a job holds this row. Here and in the other locks of this
 * room "no key": a plain FOR UPDATE would make every insert of an event about the job wait, and the waker, which holds a stage
 * when it writes one, would wait for a cancel that waits for that stage.
 */
export const lockJob = async (tx: Tx, id: string): Promise<JobRow | undefined> =>
  (await tx.query<JobRow>(`select ${columns} from jobs where id = $1 for no key update`, [id])).rows[0];

/** Locks what nobody else holds, in id order. */
export const lockFreeJobs = async (tx: Tx, ids: readonly string[]): Promise<JobRow[]> =>
  (
    await tx.query<JobRow>(
      `select ${columns} from jobs where id = any($1::text[]) order by id for no key update skip locked`,
      [ids],
    )
  ).rows;

/** By our id, or by the id that an older client chose. */
export const readJob = async (tx: Tx, id: string): Promise<JobRow | undefined> =>
  (
    await tx.query<JobRow>(
      `select ${columns} from jobs where id = $1 or external_id = $1 order by id = $1 desc limit 1`,
      [id],
    )
  ).rows[0];

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
): Promise<JobRow[]> =>
  (
    await tx.query<JobRow>(
      `select ${columns} from jobs
       where ($1::text is null or state = $1) and ($2::text is null or pipeline = $2)
         and ($3::text is null or user_id = $3) and ($4::text is null or channel_id = $4)
         and ($5::timestamptz is null or (created_at, id) < ($5, $6))
       order by created_at desc, id desc limit $7`,
      [
        filter.state ?? null,
        filter.pipeline ?? null,
        filter.userId ?? null,
        filter.channelId ?? null,
        filter.before?.createdAt ?? null,
        filter.before?.id ?? null,
        filter.limit,
      ],
    )
  ).rows;

export const countJobs = async (tx: Tx): Promise<{ state: JobState; count: number }[]> =>
  (await tx.query<{ state: JobState; count: number }>(`select state, count(*)::int as count from jobs group by state`))
    .rows;

export const countQueuedJobs = async (tx: Tx): Promise<number> =>
  (await tx.query<{ count: number }>(`select count(*)::int as count from jobs where state = 'queued'`)).rows[0]
    ?.count ?? 0;

/** 1-based among the jobs that wait; -1 when it does not wait. */
export const queuePosition = async (tx: Tx, id: string): Promise<number> =>
  (
    await tx.query<{ position: number }>(
      `select case when j.state <> 'queued' then -1 else
         1 + (select count(*) from jobs o where o.state = 'queued'
              and (o.rank, o.id) < (j.rank, j.id)) end::int as position
       from jobs j where j.id = $1`,
      [id],
    )
  ).rows[0]?.position ?? -1;

/** Mean wall seconds of the last 50 completed jobs of a pipeline; undefined without history. */
export const meanSeconds = async (tx: Tx, pipeline: string): Promise<number | undefined> =>
  (
    await tx.query<{ seconds: number | null }>(
      `select avg(seconds)::float8 as seconds from (
         select extract(epoch from ended_at - created_at) as seconds from jobs
         where pipeline = $1 and state = 'completed' order by created_at desc limit 50) last`,
      [pipeline],
    )
  ).rows[0]?.seconds ?? undefined;

/** Moves the running sums; the ledger rows that explain the move are written by the same operation. */
export const moveJobMoney = async (tx: Tx, id: string, heldBy: Micros, spentBy: Micros): Promise<void> => {
  await tx.query(`update jobs set held_micros = held_micros + $2, spent_micros = spent_micros + $3 where id = $1`, [
    id,
    heldBy,
    spentBy,
  ]);
};

export const markJobStarted = async (tx: Tx, id: string): Promise<boolean> =>
  (
    await tx.query(
      `update jobs set state = 'processing', started_at = coalesce(started_at, clock_timestamp()) where id = $1 and state = 'queued'`,
      [id],
    )
  ).rowCount > 0;

export const markJobFailure = async (tx: Tx, id: string, failure: FailureRecord): Promise<void> => {
  await tx.query(`update jobs set failure = coalesce(failure, $2) where id = $1`, [id, JSON.stringify(failure)]);
};

export const requestJobCancel = async (tx: Tx, id: string): Promise<void> => {
  await tx.query(
    `update jobs set cancel_requested_at = coalesce(cancel_requested_at, clock_timestamp()) where id = $1`,
    [id],
  );
};

/** Ends a job that has not ended; answers the row, or undefined when somebody ended it first. */
export const endJob = async (tx: Tx, id: string, state: JobState): Promise<JobRow | undefined> =>
  (
    await tx.query<JobRow>(
      `update jobs set state = $2, ended_at = clock_timestamp(), started_at = coalesce(started_at, clock_timestamp())
       where id = $1 and state in ('queued', 'processing') returning ${columns}`,
      [id, state],
    )
  ).rows[0];

export const setJobResult = async (tx: Tx, id: string, result: JsonObject): Promise<void> => {
  await tx.query(`update jobs set result = $2 where id = $1`, [id, JSON.stringify(result)]);
};
