// The rows of some jobs, read under lock and written back in bulk: what the operations on a sheet need of SQL.
// Light rows: neither the request nor the whole specification of a stage is read. Lock order job -> stage -> attempt.
import {
  type AttemptOutcome,
  type AttemptState,
  isFinal,
  type JobState,
  type StageState,
} from "@renderplane/proto/kernel/stage-state.ts";
import type { Micros } from "@renderplane/proto/kernel/units.ts";
import type { AllocationRecord, CostLine, FailureRecord, JobRow, JsonObject } from "../domain/records.ts";
import type { Tx } from "./database.ts";

export type SheetJob = Pick<
  JobRow,
  | "id"
  | "pipeline"
  | "userId"
  | "complexity"
  | "state"
  | "estimatedMicros"
  | "heldMicros"
  | "spentMicros"
  | "haltMicros"
  | "cancelRequestedAt"
  | "failure"
  | "createdAt"
  | "startedAt"
> & {
  /** Until its deadline, negative when it has passed; null: it has none. */
  readonly msToDeadline: number | null;
  /** The database's clock when the row was locked, to the microsecond: a Date would cut it and let an end lie before its start. */
  readonly now: string;
};

const jobColumns = `id, pipeline, user_id as "userId", complexity, state, estimated_micros as "estimatedMicros",
  held_micros as "heldMicros", spent_micros as "spentMicros", halt_micros as "haltMicros",
  (extract(epoch from deadline_at - clock_timestamp()) * 1000)::float8 as "msToDeadline",
  cancel_requested_at as "cancelRequestedAt", failure, created_at as "createdAt", started_at as "startedAt", to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as now`;

/**
 * First in the lock order: whoever changes a stage or an attempt of a job holds its row. Waits for whoever holds one of them. Here and in
 * the other locks of this room "no key": a plain FOR UPDATE would make every insert of an event about the job wait, and the waker,
 * which holds a stage when it writes one, would wait for a cancel that waits for that stage.
 */
export const lockSheetJobs = async (tx: Tx, ids: readonly string[]): Promise<SheetJob[]> =>
  (
    await tx.query<SheetJob>(
      `select ${jobColumns} from jobs where id = any($1::text[]) order by id for no key update`,
      [ids],
    )
  ).rows;

export const lockJobsOfAttempts = async (tx: Tx, attemptIds: readonly string[]): Promise<SheetJob[]> =>
  (
    await tx.query<SheetJob>(
      `select ${jobColumns} from jobs where id = any(array(select job_id from attempts where id = any($1::text[])))
       order by id for no key update`,
      [attemptIds],
    )
  ).rows;

/** Locks what nobody else holds: whoever works on the others comes back for them. */
export const lockFreeSheetJobs = async (tx: Tx, ids: readonly string[]): Promise<SheetJob[]> =>
  (
    await tx.query<SheetJob>(
      `select ${jobColumns} from jobs where id = any($1::text[]) order by id for no key update skip locked`,
      [ids],
    )
  ).rows;

export type SheetStage = {
  readonly id: bigint;
  readonly jobId: string;
  readonly name: string;
  readonly state: StageState;
  readonly needs: readonly string[];
  readonly retries: number;
  readonly backoffMs: number;
  readonly openNeeds: number;
  readonly tries: number;
  readonly estimatedMicros: Micros;
};
export const lockSheetStages = async (tx: Tx, jobIds: readonly string[]): Promise<SheetStage[]> =>
  (
    await tx.query<SheetStage>(
      `select id, job_id as "jobId", name, state, spec -> 'needs' as needs, (spec ->> 'retries')::int as retries,
              (spec ->> 'backoffMs')::float8 as "backoffMs", open_needs as "openNeeds", tries, estimated_micros as "estimatedMicros"
       from stages where job_id = any($1::text[]) order by id for no key update`,
      [jobIds],
    )
  ).rows;

export type SheetAttempt = {
  readonly id: string;
  readonly stageId: bigint;
  readonly jobId: string;
  readonly hostId: string;
  readonly fence: bigint;
  readonly state: AttemptState;
  readonly outcome: AttemptOutcome | null;
  readonly allocation: AllocationRecord;
  readonly holdMicros: Micros;
  readonly startedAt: Date | null;
  /** Its offer left for the host. */
  readonly wasSent: boolean;
  /** Wall seconds by the database's clock until `at`, and until its last proof of life (its last renewal). */
  readonly seconds: number;
  readonly provenSeconds: number;
  /** expired or lost when its offer or its lease and the grace are over; null while it has time. */
  readonly overdueAs: AttemptOutcome | null;
  /** Attempts of its stage that ended without counting since the last one that counted. */
  readonly uncounted: number;
};
export const lockSheetAttempts = async (
  tx: Tx,
  ids: readonly string[],
  r: { readonly at: string; readonly leaseMs: number; readonly graceMs: number; readonly countUncounted: boolean },
): Promise<SheetAttempt[]> =>
  (
    await tx.query<SheetAttempt>(
      `select id, stage_id as "stageId", job_id as "jobId", host_id as "hostId", fence, state, outcome, allocation,
         hold_micros as "holdMicros", started_at as "startedAt",
         offered_epoch is not null as "wasSent",
         coalesce(greatest(0, extract(epoch from $5::timestamptz - started_at)), 0)::float8 as seconds,
         coalesce(greatest(0, extract(epoch from lease_until - make_interval(secs => $2::float8 / 1000) - started_at)), 0)::float8 as "provenSeconds",
         case when state = 'offered' and lease_until < clock_timestamp() then 'expired'
              when state = 'running' and lease_until < clock_timestamp() - make_interval(secs => $3::float8 / 1000) then 'lost' end as "overdueAs",
         case when $4 then (select count(*) from attempts u where u.stage_id = a.stage_id
             and u.outcome in ('refused', 'expired', 'interrupted', 'cancelled')
             and u.number > coalesce((select max(c.number) from attempts c where c.stage_id = a.stage_id and c.outcome in ('failed', 'lost')), 0))
           else 0 end::int as uncounted
       from attempts a where id = any($1::text[]) order by id for no key update`,
      [ids, r.leaseMs, r.graceMs, r.countUncounted, r.at],
    )
  ).rows;

export type AttemptEnd = {
  readonly id: string;
  readonly outcome: AttemptOutcome;
  readonly chargeMicros: Micros;
  readonly failure: FailureRecord | null;
  readonly verdict: JsonObject;
  readonly usage: readonly unknown[];
};
export const writeAttemptEnds = async (tx: Tx, ends: readonly AttemptEnd[], at: string): Promise<number> =>
  (
    await tx.query(
      `update attempts a set state = 'ended', outcome = e.outcome, charge_micros = e.charge, failure = e.failure, verdict = e.verdict,
         usage = e.usage, progress = case when e.outcome = 'succeeded' then 1 else a.progress end, eta_ms = null, ended_at = $2
       from jsonb_to_recordset($1::jsonb) as e(id text, outcome text, charge bigint, failure jsonb, verdict jsonb, usage jsonb)
       where a.id = e.id and a.state <> 'ended'`,
      [
        JSON.stringify(
          ends.map((e) => ({
            id: e.id,
            outcome: e.outcome,
            charge: String(e.chargeMicros),
            failure: e.failure,
            verdict: e.verdict,
            usage: e.usage,
          })),
        ),
        at,
      ],
    )
  ).rowCount;

export type StageMove = {
  readonly id: bigint;
  readonly from: StageState;
  readonly to: StageState;
  readonly metNeeds: number;
  readonly countedTries: number;
  /** From now; undefined: the time it had. */
  readonly delayMs?: number;
  readonly outputFence?: bigint;
  readonly result?: JsonObject;
  readonly failure?: FailureRecord;
  /** One entry a host, its last: a host may refuse for days. */
  readonly avoid?: { readonly hostId: string; readonly reason: string };
};
/** Answers how many moved: fewer than asked means that somebody without the job's lock moved one. */
export const writeStageMoves = async (tx: Tx, moves: readonly StageMove[], at: string): Promise<number> =>
  (
    await tx.query(
      `update stages s set state = m.next, open_needs = s.open_needs - m.met, tries = s.tries + m.counted,
         output_fence = coalesce(m.output_fence, s.output_fence), result = coalesce(m.result, s.result),
         failure = coalesce(m.failure, s.failure),
         run_at = case when m.delay_ms is null then s.run_at else $2::timestamptz + make_interval(secs => m.delay_ms / 1000) end,
         avoid = case when m.avoid is null then s.avoid else
           (select coalesce(jsonb_agg(a order by n), '[]') from jsonb_array_elements(s.avoid) with ordinality as x(a, n)
            where a ->> 'hostId' <> m.avoid ->> 'hostId') || jsonb_build_array(m.avoid) end,
         waiting_reason = null,
         ended_at = case when m.is_final then $2::timestamptz else s.ended_at end
       from jsonb_to_recordset($1::jsonb) as m(id bigint, prior text, next text, met int, counted int, delay_ms float8,
              output_fence bigint, result jsonb, failure jsonb, avoid jsonb, is_final boolean)
       where s.id = m.id and s.state = m.prior`,
      [
        JSON.stringify(
          moves.map((m) => ({
            id: String(m.id),
            prior: m.from,
            next: m.to,
            met: m.metNeeds,
            counted: m.countedTries,
            delay_ms: m.delayMs,
            output_fence: m.outputFence === undefined ? undefined : String(m.outputFence),
            result: m.result,
            failure: m.failure,
            avoid: m.avoid,
            is_final: isFinal(m.to),
          })),
        ),
        at,
      ],
    )
  ).rowCount;

export type JobMove = {
  readonly id: string;
  readonly heldBy: Micros;
  readonly spentBy: Micros;
  readonly failure: FailureRecord | null;
  readonly hasStarted: boolean;
  /** Set when it ends. */
  readonly endedAs?: JobState;
  readonly result?: JsonObject;
};
/** `at`: when those that start or end do so; null when none does. */
export const writeJobMoves = async (tx: Tx, moves: readonly JobMove[], at: string | null): Promise<void> => {
  await tx.query(
    `update jobs j set held_micros = j.held_micros + m.held, spent_micros = j.spent_micros + m.spent,
       failure = coalesce(j.failure, m.failure), result = coalesce(m.result, j.result),
       state = coalesce(m.ended_as, case when m.started and j.state = 'queued' then 'processing' else j.state end),
       started_at = case when m.started or m.ended_as is not null then coalesce(j.started_at, $2::timestamptz) else j.started_at end,
       ended_at = case when m.ended_as is not null then $2::timestamptz else j.ended_at end
     from jsonb_to_recordset($1::jsonb) as m(id text, held bigint, spent bigint, failure jsonb, started boolean, ended_as text, result jsonb)
     where j.id = m.id`,
    [
      JSON.stringify(
        moves.map((m) => ({
          id: m.id,
          held: String(m.heldBy),
          spent: String(m.spentBy),
          failure: m.failure,
          started: m.hasStarted,
          ended_as: m.endedAs,
          result: m.result,
        })),
      ),
      at,
    ],
  );
};

export const markJobsStarted = async (tx: Tx, ids: readonly string[]): Promise<void> => {
  if (ids.length === 0) return;
  await tx.query(
    `update jobs set state = 'processing', started_at = coalesce(started_at, clock_timestamp()) where id = any($1::text[]) and state = 'queued'`,
    [ids],
  );
};

/** What these jobs were charged, by service and provider, and the results of their stages: what the end of a job reports. */
export const closingFacts = async (
  tx: Tx,
  jobIds: readonly string[],
): Promise<{
  costs: (CostLine & { jobId: string })[];
  results: { jobId: string; name: string; result: JsonObject }[];
}> => ({
  costs: (
    await tx.query<CostLine & { jobId: string }>(
      `select job_id as "jobId", service, provider, sum(micros)::bigint as micros from ledger
       where job_id = any($1::text[]) and kind = 'charge' group by 1, 2, 3 order by 1, 2, 3`,
      [jobIds],
    )
  ).rows,
  results: (
    await tx.query<{ jobId: string; name: string; result: JsonObject }>(
      `select job_id as "jobId", name, result from stages where job_id = any($1::text[]) and result is not null order by position`,
      [jobIds],
    )
  ).rows,
});
