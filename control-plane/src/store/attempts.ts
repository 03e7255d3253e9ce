// Rows of attempts: leases and their fences. A write on behalf of a host carries the fence and the host's epoch; zero rows
// mean that the lease is somebody else's by now.
import type { AttemptOutcome } from "@renderplane/proto/kernel/stage-state.ts";
import type { Micros } from "@renderplane/proto/kernel/units.ts";
import type { AllocationRecord, AttemptRow, FailureRecord, JsonObject, StageSpec } from "../domain/records.ts";
import type { Tx } from "./database.ts";

const columns = `id, stage_id as "stageId", job_id as "jobId", host_id as "hostId", number, fence, state, outcome, allocation,
  hold_micros as "holdMicros", charge_micros as "chargeMicros", offered_at as "offeredAt", started_at as "startedAt",
  lease_until as "leaseUntil", progress, step, eta_ms as "etaMs", failure, verdict, ended_at as "endedAt"`;

export type NewAttempt = {
  readonly id: string;
  readonly stageId: bigint;
  readonly jobId: string;
  readonly hostId: string;
  readonly number: number;
  readonly allocation: AllocationRecord;
  readonly holdMicros: Micros;
};

/** Writes offers with fresh fences, in one statement. */
export const insertAttempts = async (tx: Tx, attempts: readonly NewAttempt[], offerMs: number): Promise<void> => {
  if (attempts.length === 0) return;
  await tx.query(
    `insert into attempts (id, stage_id, job_id, host_id, number, fence, allocation, hold_micros, lease_until)
     select a.id, a.stage_id, a.job_id, a.host_id, a.number, nextval('fences'), a.allocation, a.hold_micros,
            clock_timestamp() + make_interval(secs => $2::float8 / 1000)
     from jsonb_to_recordset($1::jsonb) as a(id text, stage_id bigint, job_id text, host_id text, number int, allocation jsonb, hold_micros bigint)`,
    [
      JSON.stringify(
        attempts.map((a) => ({
          id: a.id,
          stage_id: String(a.stageId),
          job_id: a.jobId,
          host_id: a.hostId,
          number: a.number,
          allocation: a.allocation,
          hold_micros: String(a.holdMicros),
        })),
      ),
      offerMs,
    ],
  );
};

export const readAttempt = async (tx: Tx, id: string): Promise<AttemptRow | undefined> =>
  (await tx.query<AttemptRow>(`select ${columns} from attempts where id = $1`, [id])).rows[0];

export const lockAttempt = async (tx: Tx, id: string): Promise<AttemptRow | undefined> =>
  (await tx.query<AttemptRow>(`select ${columns} from attempts where id = $1 for no key update`, [id])).rows[0];

export const readAttempts = async (tx: Tx, ids: readonly string[]): Promise<AttemptRow[]> =>
  (await tx.query<AttemptRow>(`select ${columns} from attempts where id = any($1::text[])`, [ids])).rows;

export const listAttempts = async (tx: Tx, jobId: string): Promise<AttemptRow[]> =>
  (await tx.query<AttemptRow>(`select ${columns} from attempts where job_id = $1 order by stage_id, number`, [jobId]))
    .rows;

export const liveAttemptsOf = async (tx: Tx, hostId: string): Promise<AttemptRow[]> =>
  (await tx.query<AttemptRow>(`select ${columns} from attempts where host_id = $1 and state <> 'ended'`, [hostId]))
    .rows;

/** Attempts of a stage that ended without counting since the last one that counted. */
export const uncountedInARow = async (tx: Tx, stageId: bigint): Promise<number> =>
  (
    await tx.query<{ count: number }>(
      `select count(*)::int as count from attempts a where a.stage_id = $1 and a.outcome in ('refused', 'expired', 'interrupted', 'cancelled')
       and a.number > coalesce((select max(number) from attempts b where b.stage_id = $1 and b.outcome in ('failed', 'lost')), 0)`,
      [stageId],
    )
  ).rows[0]?.count ?? 0;

/** The accept is committed: the attempt may cost money from now on. False: the offer is gone. */
export const startAttempt = async (
  tx: Tx,
  r: { readonly attemptId: string; readonly fence: bigint; readonly hostId: string; readonly leaseMs: number },
): Promise<boolean> =>
  (
    await tx.query(
      `update attempts set state = 'running', started_at = clock_timestamp(),
         lease_until = clock_timestamp() + make_interval(secs => $4::float8 / 1000)
       where id = $1 and fence = $2 and host_id = $3 and state = 'offered'`,
      [r.attemptId, r.fence, r.hostId, r.leaseMs],
    )
  ).rowCount > 0;

/** Ends a live attempt; the caller holds its job and stage. */
export const endAttempt = async (
  tx: Tx,
  r: {
    readonly attemptId: string;
    readonly outcome: AttemptOutcome;
    readonly chargeMicros: Micros;
    readonly failure: FailureRecord | null;
    readonly verdict: JsonObject;
    readonly usage: readonly unknown[];
  },
): Promise<boolean> =>
  (
    await tx.query(
      `update attempts set state = 'ended', outcome = $2, charge_micros = $3, failure = $4, verdict = $5, usage = $6,
         progress = case when $2 = 'succeeded' then 1 else progress end, eta_ms = null, ended_at = clock_timestamp()
       where id = $1 and state <> 'ended'`,
      [
        r.attemptId,
        r.outcome,
        r.chargeMicros,
        r.failure === null ? null : JSON.stringify(r.failure),
        JSON.stringify(r.verdict),
        JSON.stringify(r.usage),
      ],
    )
  ).rowCount > 0;

export type Renewal = {
  readonly hostId: string;
  readonly epoch: bigint;
  readonly attemptId: string;
  readonly fence: bigint;
  readonly progress: number;
  readonly step: string;
  readonly etaMs: bigint | null;
};

/** One statement for every lease of a replica. An offer that was accepted a moment ago is known but not extended here. */
export const renewAttempts = async (tx: Tx, renewals: readonly Renewal[], leaseMs: number): Promise<string[]> =>
  (
    await tx.query<{ id: string }>(
      `update attempts a set
         lease_until = case when a.state = 'running' then clock_timestamp() + make_interval(secs => $8::float8 / 1000) else a.lease_until end,
         progress = greatest(a.progress, r.progress), step = case when r.step = '' then a.step else r.step end, eta_ms = r.eta_ms
       from unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[], $5::real[], $6::text[], $7::bigint[])
              as r(id, fence, host_id, epoch, progress, step, eta_ms)
       join hosts h on h.id = r.host_id and h.epoch = r.epoch
       where a.id = r.id and a.fence = r.fence and a.host_id = r.host_id and a.state <> 'ended'
       returning a.id`,
      [
        renewals.map((r) => r.attemptId),
        renewals.map((r) => r.fence),
        renewals.map((r) => r.hostId),
        renewals.map((r) => r.epoch),
        renewals.map((r) => r.progress),
        renewals.map((r) => r.step),
        renewals.map((r) => r.etaMs),
        leaseMs,
      ],
    )
  ).rows.map((row) => row.id);

/** After an outage of ours, every running lease starts its countdown again: we could not have heard a renewal. */
export const restartLeases = async (tx: Tx, leaseMs: number): Promise<number> =>
  (
    await tx.query(
      `update attempts set lease_until = greatest(lease_until, clock_timestamp() + make_interval(secs => $1::float8 / 1000)) where state = 'running'`,
      [leaseMs],
    )
  ).rowCount;

export type Overdue = {
  readonly id: string;
  readonly fence: bigint;
  readonly hostId: string;
  readonly outcome: "expired" | "lost";
};
const overdueOutcome = `case when state = 'offered' then 'expired' else 'lost' end`;
const isOverdue = `state <> 'ended' and lease_until < clock_timestamp()
  and (state = 'offered' or lease_until < clock_timestamp() - make_interval(secs => $1::float8 / 1000))`;
/** Offers past their time, and leases past their time and the grace. Served by the partial index on lease_until. */
export const overdueAttempts = async (tx: Tx, graceMs: number, limit: number): Promise<Overdue[]> =>
  (
    await tx.query<Overdue>(
      `select id, fence, host_id as "hostId", ${overdueOutcome} as outcome from attempts where ${isOverdue} order by lease_until limit $2`,
      [graceMs, limit],
    )
  ).rows;

/** The same of one attempt that the caller holds: it may have been accepted or renewed since somebody looked. */
export const isStillOverdue = async (tx: Tx, id: string, outcome: AttemptOutcome, graceMs: number): Promise<boolean> =>
  (
    await tx.query(`select 1 from attempts where id = $2 and ${isOverdue} and ${overdueOutcome} = $3`, [
      graceMs,
      id,
      outcome,
    ])
  ).rowCount > 0;

export type OfferRow = {
  readonly attemptId: string;
  readonly fence: bigint;
  readonly jobId: string;
  readonly stage: string;
  readonly kind: string;
  readonly number: number;
  readonly spec: StageSpec;
  readonly request: JsonObject;
  readonly allocation: AllocationRecord;
};
/** Offers of a host that this session has not been sent; marks them sent. */
export const takeUnsentOffers = async (tx: Tx, hostId: string, epoch: bigint): Promise<OfferRow[]> =>
  (
    await tx.query<OfferRow>(
      `with sent as (
         update attempts set offered_epoch = $2
         where host_id = $1 and state = 'offered' and offered_epoch is distinct from $2 and lease_until > clock_timestamp()
         returning id, fence, job_id, stage_id, number, allocation)
       select sent.id as "attemptId", sent.fence, sent.job_id as "jobId", s.name as stage, s.kind, sent.number, s.spec,
              j.request, sent.allocation
       from sent join stages s on s.id = sent.stage_id join jobs j on j.id = sent.job_id order by sent.fence`,
      [hostId, epoch],
    )
  ).rows;

/** Live attempts of a host whose stage is being cancelled. */
export const attemptsToStop = async (tx: Tx, hostId: string): Promise<{ attemptId: string; fence: bigint }[]> =>
  (
    await tx.query<{ attemptId: string; fence: bigint }>(
      `select a.id as "attemptId", a.fence from attempts a join stages s on s.id = a.stage_id
       where a.host_id = $1 and a.state <> 'ended' and s.state = 'cancelling'`,
      [hostId],
    )
  ).rows;

/** Hosts that hold a live attempt of a job: whose bell rings when it is cancelled. */
export const hostsOfJob = async (tx: Tx, jobId: string): Promise<string[]> =>
  (
    await tx.query<{ hostId: string }>(
      `select distinct host_id as "hostId" from attempts where job_id = $1 and state <> 'ended'`,
      [jobId],
    )
  ).rows.map((row) => row.hostId);

/** Wall seconds of an attempt by the database's clock; a lost one counts until its last proof of life (its last renewal). */
export const attemptSeconds = async (tx: Tx, id: string, leaseMs: number, isLost: boolean): Promise<number> =>
  (
    await tx.query<{ seconds: number | null }>(
      `select greatest(0, extract(epoch from
         (case when $3 then lease_until - make_interval(secs => $2::float8 / 1000) else clock_timestamp() end) - started_at))::float8 as seconds
       from attempts where id = $1`,
      [id, leaseMs, isLost],
    )
  ).rows[0]?.seconds ?? 0;
