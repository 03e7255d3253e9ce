// Rows of stages. Every change of state names the states that the table in kernel/stage-state.ts allows it from, and
// answers whether a row moved: zero rows means that somebody moved first.
import { type StageState, sourcesOf } from "@renderplane/proto/kernel/stage-state.ts";
import type { PlannedStage } from "../domain/pipeline.ts";
import type { JsonObject, StageRow } from "../domain/records.ts";
import type { Tx } from "./database.ts";

const columns = `id, job_id as "jobId", position, name, kind, state, spec, open_needs as "openNeeds", tries, attempts, avoid,
  estimated_micros as "estimatedMicros", rank, user_id as "userId", pipeline, shape, queued_at as "queuedAt", run_at as "runAt",
  waiting_reason as "waitingReason", output_fence as "outputFence", result, failure, started_at as "startedAt",
  ended_at as "endedAt"`;

export type JobOfStages = {
  readonly id: string;
  readonly rank: bigint;
  readonly userId: string;
  readonly pipeline: string;
  /** Stages that need nothing wait until then; null: they are ready. */
  readonly notBefore: Date | null;
};

export const insertStages = async (tx: Tx, job: JobOfStages, stages: readonly PlannedStage[]): Promise<void> => {
  await tx.query(
    `insert into stages (job_id, position, name, kind, state, spec, open_needs, estimated_micros, rank, user_id, pipeline, run_at, shape)
     select $1, s.position, s.name, s.kind,
            case when s.open_needs > 0 then 'pending' when $5::timestamptz > clock_timestamp() then 'waiting' else 'ready' end,
            s.spec, s.open_needs, s.estimated_micros, $2, $3, $4, coalesce($5, clock_timestamp()), s.shape
     from jsonb_to_recordset($6::jsonb)
       as s(position int, name text, kind text, spec jsonb, open_needs int, estimated_micros bigint, shape text)`,
    [
      job.id,
      job.rank,
      job.userId,
      job.pipeline,
      job.notBefore,
      JSON.stringify(
        stages.map((s) => ({
          position: s.position,
          name: s.name,
          kind: s.kind,
          spec: s.spec,
          open_needs: s.openNeeds,
          estimated_micros: String(s.estimatedMicros),
          shape: s.shape,
        })),
      ),
    ],
  );
};

export const listStages = async (tx: Tx, jobId: string): Promise<StageRow[]> =>
  (await tx.query<StageRow>(`select ${columns} from stages where job_id = $1 order by position`, [jobId])).rows;

export type QueuePlace = { readonly rank: bigint; readonly id: bigint };
export type HeadPage = {
  readonly stages: readonly { readonly id: bigint; readonly jobId: string }[];
  /** Where the window ended; undefined: the queue ended in it. */
  readonly windowEnd: QueuePlace | undefined;
};
export type PassedOver = {
  readonly shapes: readonly string[];
  readonly users: readonly string[];
  readonly pipelines: readonly string[];
};

/**
 * A page of the queue from a place on, without locks: jobs are locked first, then these rows again by lockReadyStages. What cannot
 * be placed now is passed over, or enough of it in front would keep everything behind it from free hosts; but no more than
 * `window` entries of the index are read, however many are passed over.
 */
export const readyHead = async (
  tx: Tx,
  r: { readonly after: QueuePlace; readonly limit: number; readonly window: number; readonly except: PassedOver },
): Promise<HeadPage> => {
  const { rows } = await tx.query<{
    ids: bigint[];
    jobIds: string[];
    seen: number;
    lastRank: bigint | null;
    lastId: bigint | null;
  }>(
    `with seen as materialized (
       select id, job_id, rank, run_at, shape, user_id, pipeline from stages
       where state = 'ready' and (rank, id) > ($1, $2) order by rank, id limit $4),
     page as materialized (
       select id, job_id, rank from seen where run_at <= clock_timestamp() and shape <> all($5::text[]) and user_id <> all($6::text[])
         and pipeline <> all($7::text[]) order by rank, id limit $3)
     select array(select id from page order by rank, id) as ids, array(select job_id from page order by rank, id) as "jobIds",
            (select count(*) from seen)::int as seen,
            (select rank from seen order by rank desc, id desc limit 1) as "lastRank",
            (select id from seen order by rank desc, id desc limit 1) as "lastId"`,
    [r.after.rank, r.after.id, r.limit, r.window, r.except.shapes, r.except.users, r.except.pipelines],
  );
  const row = rows[0];
  const isWhole = !row || row.seen < r.window || row.lastRank === null || row.lastId === null;
  return {
    stages: (row?.ids ?? []).map((id, i) => ({ id, jobId: row?.jobIds[i] ?? "" })),
    windowEnd: isWhole ? undefined : { rank: row.lastRank as bigint, id: row.lastId as bigint },
  };
};

/** Ready stages of jobs that are in work: what a limit of jobs never holds back. As many jobs are looked at as may run. */
export const readyOfBegunJobs = async (
  tx: Tx,
  limit: number,
  exceptShapes: readonly string[],
): Promise<{ id: bigint; jobId: string }[]> =>
  (
    await tx.query<{ id: bigint; jobId: string }>(
      `select s.id, s.job_id as "jobId" from jobs j join stages s on s.job_id = j.id
       where j.state = 'processing' and s.state = 'ready' and s.run_at <= clock_timestamp() and s.shape <> all($2::text[])
       order by s.rank, s.id limit $1`,
      [limit, exceptShapes],
    )
  ).rows;

export const lockReadyStages = async (tx: Tx, ids: readonly bigint[]): Promise<StageRow[]> =>
  (
    await tx.query<StageRow>(
      `select ${columns} from stages where id = any($1::bigint[]) and state = 'ready' order by rank, id for no key update`,
      [ids],
    )
  ).rows;

/** Offers a batch: the stages whose attempts were just written. */
export const markOffered = async (tx: Tx, ids: readonly bigint[]): Promise<number> =>
  (
    await tx.query(
      `update stages set state = 'offered', attempts = attempts + 1, waiting_reason = null where id = any($1::bigint[]) and state = any($2::text[])`,
      [ids, sourcesOf("offer")],
    )
  ).rowCount;

/** The hosts took their offers. */
export const markAccepted = async (tx: Tx, ids: readonly bigint[]): Promise<void> => {
  await tx.query(
    `update stages set state = 'running', waiting_reason = null, started_at = coalesce(started_at, clock_timestamp())
     where id = any($1::bigint[]) and state = any($2::text[])`,
    [ids, sourcesOf("accept")],
  );
};

/** Why these were not placed; rows whose reason did not change are left alone. */
export const noteWaiting = async (
  tx: Tx,
  reasons: readonly { readonly id: bigint; readonly reason: JsonObject }[],
): Promise<void> => {
  if (reasons.length === 0) return;
  await tx.query(
    `update stages s set waiting_reason = r.reason
     from jsonb_to_recordset($1::jsonb) as r(id bigint, reason jsonb)
     where s.id = r.id and s.waiting_reason is distinct from r.reason`,
    [JSON.stringify(reasons.map((r) => ({ id: String(r.id), reason: r.reason })))],
  );
};

/** Retries whose time has come. */
export const wakeStages = async (tx: Tx, limit: number): Promise<{ jobId: string; name: string }[]> =>
  (
    await tx.query<{ jobId: string; name: string }>(
      `update stages set state = 'ready' where id in (
         select id from stages where state = 'waiting' and run_at <= (select clock_timestamp()) order by run_at limit $1 for no key update skip locked)
       and state = any($2::text[]) returning job_id as "jobId", name`,
      [limit, sourcesOf("wake")],
    )
  ).rows;

/** Milliseconds until the next waiting or delayed stage is due; undefined when none is. Only a stage that was tried is delayed (0005). */
export const nextDueMs = async (tx: Tx): Promise<number | undefined> =>
  (
    await tx.query<{ ms: number | null }>(
      `select extract(epoch from least(
         (select min(run_at) from stages where state = 'waiting'),
         (select min(run_at) from stages where state = 'ready' and attempts > 0 and run_at > (select clock_timestamp()))) - clock_timestamp())::float8 * 1000 as ms`,
    )
  ).rows[0]?.ms ?? undefined;

export const countStages = async (tx: Tx): Promise<{ state: StageState; count: number }[]> =>
  // By way of the open jobs, which have an index: the stages of ended jobs are far more, and never open.
  (
    await tx.query<{ state: StageState; count: number }>(
      `select s.state, count(*)::int as count from jobs j join stages s on s.job_id = j.id
       where j.state in ('queued', 'processing') and s.state not in ('succeeded', 'failed', 'cancelled', 'skipped') group by s.state`,
    )
  ).rows;

/** Results of the stages of these jobs that have one. */
export const stageResults = async (
  tx: Tx,
  jobIds: readonly string[],
): Promise<{ jobId: string; name: string; result: JsonObject | null }[]> =>
  (
    await tx.query<{ jobId: string; name: string; result: JsonObject | null }>(
      `select job_id as "jobId", name, result from stages where job_id = any($1::text[]) and result is not null`,
      [jobIds],
    )
  ).rows;
