// Rows of stages. Every change of state names the states that the table in kernel/stage-state.ts allows it from, and
// answers whether a row moved: zero rows means that somebody moved first.
import { next, type StageEvent, type StageState, sourcesOf } from "@renderplane/proto/kernel/stage-state.ts";
import type { PlannedStage } from "../domain/pipeline.ts";
import type { FailureRecord, JsonObject, StageRow } from "../domain/records.ts";
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

export const lockStage = async (tx: Tx, id: bigint): Promise<StageRow | undefined> =>
  (await tx.query<StageRow>(`select ${columns} from stages where id = $1 for no key update`, [id])).rows[0];

/**
 * The head of the queue, without locks: jobs are locked first, then these rows again by lockReadyStages. Shapes that fitted
 * nowhere a moment ago are passed over, or enough of them in front would keep everything behind them from free hosts.
 */
export const readyHead = async (
  tx: Tx,
  limit: number,
  exceptShapes: readonly string[],
): Promise<{ id: bigint; jobId: string }[]> =>
  (
    await tx.query<{ id: bigint; jobId: string }>(
      `select id, job_id as "jobId" from stages where state = 'ready' and run_at <= clock_timestamp()
         and shape <> all($2::text[]) order by rank, id limit $1`,
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

/**
 * Applies an event to one stage. `set` may add columns of the new state. False: the table refuses it from today's state.
 * `avoid` keeps one entry a host, its last: a host may refuse for days.
 */
export const moveStage = async (
  tx: Tx,
  id: bigint,
  event: StageEvent,
  set: {
    readonly outputFence?: bigint;
    readonly result?: JsonObject;
    readonly failure?: FailureRecord;
    readonly delayMs?: number;
    readonly countTry?: boolean;
    readonly avoid?: { readonly hostId: string; readonly reason: string };
  } = {},
): Promise<boolean> =>
  (
    await tx.query(
      `update stages set
         state = ${target(event, "$2")},
         output_fence = coalesce($3, output_fence), result = coalesce($4, result),
         failure = coalesce($5, failure),
         run_at = clock_timestamp() + make_interval(secs => $6::float8 / 1000),
         tries = tries + $7,
         avoid = case when $8::jsonb is null then avoid else
           (select coalesce(jsonb_agg(a order by n), '[]') from jsonb_array_elements(avoid) with ordinality as x(a, n)
            where a ->> 'hostId' <> $8::jsonb -> 0 ->> 'hostId') || $8::jsonb end,
         waiting_reason = null,
         started_at = case when $9 then coalesce(started_at, clock_timestamp()) else started_at end,
         ended_at = case when ${target(event, "$2")} in ('succeeded', 'failed', 'cancelled', 'skipped') then clock_timestamp() else ended_at end
       where id = $1 and state = any($2::text[])`,
      [
        id,
        sourcesOf(event),
        set.outputFence ?? null,
        set.result === undefined ? null : JSON.stringify(set.result),
        set.failure === undefined ? null : JSON.stringify(set.failure),
        set.delayMs ?? 0,
        set.countTry ? 1 : 0,
        set.avoid === undefined ? null : JSON.stringify([set.avoid]),
        event === "accept",
      ],
    )
  ).rowCount > 0;

/** Applies an event to every stage of a job that the table allows it for; answers the names and new states. */
export const moveStages = async (
  tx: Tx,
  jobId: string,
  event: StageEvent,
): Promise<{ name: string; state: StageState }[]> =>
  (
    await tx.query<{ name: string; state: StageState }>(
      `update stages set state = ${target(event, "$2")}, waiting_reason = null,
         ended_at = case when ${target(event, "$2")} in ('succeeded', 'failed', 'cancelled', 'skipped') then clock_timestamp() else ended_at end
       where job_id = $1 and state = any($2::text[]) returning name, state`,
      [jobId, sourcesOf(event)],
    )
  ).rows;

/** The new state as SQL: one word, or a case over the old state where the table branches (cancel). */
const target = (event: StageEvent, used: string): string => {
  const pairs = sourcesOf(event).map((from) => [from, next[from][event]] as const);
  const words = new Set(pairs.map(([, to]) => to));
  // `used` keeps the parameter typed in both shapes.
  if (words.size === 1) return `(case when ${used}::text[] is null then state else '${[...words][0]}' end)`;
  return `(case state ${pairs.map(([from, to]) => `when '${from}' then '${to}'`).join(" ")} end)`;
};

/** One need of these stages is met; the last one makes them ready. Answers the names that became ready. */
export const meetNeed = async (tx: Tx, jobId: string, need: string): Promise<string[]> =>
  (
    await tx.query<{ name: string; state: StageState }>(
      `update stages set open_needs = open_needs - 1,
         state = case when open_needs = 1 then 'ready' else state end,
         run_at = case when open_needs = 1 then clock_timestamp() else run_at end
       where job_id = $1 and state = 'pending' and spec -> 'needs' ? $2 returning name, state`,
      [jobId, need],
    )
  ).rows
    .filter((row) => row.state === "ready")
    .map((row) => row.name);

/** Offers a batch: the stages whose attempts were just written. */
export const markOffered = async (tx: Tx, ids: readonly bigint[]): Promise<number> =>
  (
    await tx.query(
      `update stages set state = 'offered', attempts = attempts + 1, waiting_reason = null where id = any($1::bigint[]) and state = any($2::text[])`,
      [ids, sourcesOf("offer")],
    )
  ).rowCount;

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
         select id from stages where state = 'waiting' and run_at <= clock_timestamp() order by run_at limit $1 for no key update skip locked)
       and state = any($2::text[]) returning job_id as "jobId", name`,
      [limit, sourcesOf("wake")],
    )
  ).rows;

/** Milliseconds until the next waiting or delayed stage is due; undefined when none is. */
export const nextDueMs = async (tx: Tx): Promise<number | undefined> =>
  (
    await tx.query<{ ms: number | null }>(
      `select extract(epoch from least(
         (select min(run_at) from stages where state = 'waiting'),
         (select min(run_at) from stages where state = 'ready' and run_at > clock_timestamp())) - clock_timestamp())::float8 * 1000 as ms`,
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
