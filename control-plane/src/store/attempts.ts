// Rows of attempts: leases and their fences. A write on behalf of a host carries the fence and the host's epoch; zero rows
// mean that the lease is somebody else's by now.
import type { AttemptState, StageState } from "@renderplane/proto/kernel/stage-state.ts";
import type { Micros } from "@renderplane/proto/kernel/units.ts";
import type { AllocationRecord, AttemptRow, JsonObject, StageSpec } from "../domain/records.ts";
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

export const listAttempts = async (tx: Tx, jobId: string): Promise<AttemptRow[]> =>
  (await tx.query<AttemptRow>(`select ${columns} from attempts where job_id = $1 order by stage_id, number`, [jobId]))
    .rows;

/** What an accept is judged by. `epoch` is the host's newest; null when the host was revoked. */
export type AcceptanceRow = {
  readonly id: string;
  readonly jobId: string;
  readonly stageId: bigint;
  readonly hostId: string;
  readonly host: string;
  readonly number: number;
  readonly fence: bigint;
  readonly state: AttemptState;
  readonly stage: string;
  readonly stageState: StageState;
  readonly epoch: bigint | null;
};
export const acceptances = async (tx: Tx, ids: readonly string[]): Promise<AcceptanceRow[]> =>
  (
    await tx.query<AcceptanceRow>(
      `select a.id, a.job_id as "jobId", a.stage_id as "stageId", a.host_id as "hostId", h.name as host, a.number, a.fence, a.state,
              s.name as stage, s.state as "stageState", case when h.intent <> 'revoked' then h.epoch end as epoch
       from attempts a join stages s on s.id = a.stage_id join hosts h on h.id = a.host_id where a.id = any($1::text[])`,
      [ids],
    )
  ).rows;

/** The accepts are committed: the attempts may cost money from now on. */
export const startAttempts = async (tx: Tx, ids: readonly string[], leaseMs: number): Promise<void> => {
  await tx.query(
    `update attempts set state = 'running', started_at = clock_timestamp(),
       lease_until = clock_timestamp() + make_interval(secs => $2::float8 / 1000)
     where id = any($1::text[]) and state = 'offered'`,
    [ids, leaseMs],
  );
};

export type Renewal = {
  readonly hostId: string;
  readonly epoch: bigint;
  readonly attemptId: string;
  readonly fence: bigint;
  readonly progress: number;
  readonly step: string;
  readonly etaMs: bigint | null;
};

/**
 * One statement for every lease of a replica. An offer that was accepted a moment ago is known but not extended here. Locks in the
 * order of ids, like everybody who locks several attempts.
 */
export const renewAttempts = async (tx: Tx, renewals: readonly Renewal[], leaseMs: number): Promise<string[]> =>
  (
    await tx.query<{ id: string }>(
      `with held as materialized (select id from attempts where id = any($1::text[]) and state <> 'ended' order by id for no key update)
       update attempts a set
         lease_until = case when a.state = 'running' then clock_timestamp() + make_interval(secs => $8::float8 / 1000) else a.lease_until end,
         progress = greatest(a.progress, r.progress), step = case when r.step = '' then a.step else r.step end, eta_ms = r.eta_ms
       from unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[], $5::real[], $6::text[], $7::bigint[])
              as r(id, fence, host_id, epoch, progress, step, eta_ms)
       join held using (id) join hosts h on h.id = r.host_id and h.epoch = r.epoch
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

/**
 * After an outage of ours, every running lease starts its countdown again: we could not have heard a renewal. Locks in the order of
 * ids: at this very moment every replica renews.
 */
export const restartLeases = async (tx: Tx, leaseMs: number): Promise<number> =>
  (
    await tx.query(
      `with held as materialized (select id from attempts where state = 'running' order by id for no key update)
       update attempts a set lease_until = greatest(a.lease_until, clock_timestamp() + make_interval(secs => $1::float8 / 1000))
       from held where a.id = held.id and a.state = 'running'`,
      [leaseMs],
    )
  ).rowCount;

export type OfferRow = {
  readonly hostId: string;
  readonly epoch: bigint;
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
/**
 * Offers of these hosts that their sessions have not been sent; marks them sent. A host whose epoch is not the newest, or that was
 * revoked, gets nothing.
 */
export const takeUnsentOffers = async (
  tx: Tx,
  sessions: readonly { readonly hostId: string; readonly epoch: bigint }[],
): Promise<OfferRow[]> =>
  (
    await tx.query<OfferRow>(
      `with sessions as (
         select h.id, h.epoch from unnest($1::text[], $2::bigint[]) as s(id, epoch) join hosts h using (id, epoch) where h.intent <> 'revoked'),
       unsent as materialized (
         select a.id, n.epoch from attempts a join sessions n on n.id = a.host_id
         where a.state = 'offered' and a.offered_epoch is distinct from n.epoch and a.lease_until > clock_timestamp()
         order by a.id for no key update of a),
       sent as (
         update attempts a set offered_epoch = u.epoch from unsent u where a.id = u.id
         returning a.id, a.host_id, a.offered_epoch, a.fence, a.job_id, a.stage_id, a.number, a.allocation)
       select sent.id as "attemptId", sent.host_id as "hostId", sent.offered_epoch as epoch, sent.fence, sent.job_id as "jobId", s.name as stage, s.kind,
              sent.number, s.spec, j.request, sent.allocation
       from sent join stages s on s.id = sent.stage_id join jobs j on j.id = sent.job_id order by sent.fence`,
      [sessions.map((s) => s.hostId), sessions.map((s) => s.epoch)],
    )
  ).rows;

export type StopRow = {
  readonly hostId: string;
  readonly attemptId: string;
  readonly fence: bigint;
  readonly reason: "cancelled" | "give_back";
};
/** Live attempts whose stage is being cancelled, and those that a drain past its time gives back. */
export const attemptsToStop = async (tx: Tx, hostIds: readonly string[]): Promise<StopRow[]> =>
  (
    await tx.query<StopRow>(
      `select a.host_id as "hostId", a.id as "attemptId", a.fence,
              case when s.state = 'cancelling' then 'cancelled' else 'give_back' end as reason
       from attempts a join stages s on s.id = a.stage_id join hosts h on h.id = a.host_id
       where a.host_id = any($1::text[]) and a.state <> 'ended'
         and (s.state = 'cancelling' or (a.state = 'running' and h.intent = 'draining' and h.drain_until < clock_timestamp()))`,
      [hostIds],
    )
  ).rows;

/** Hosts that hold a live attempt of these jobs: whose bells ring when something must stop. */
export const hostsOfJobs = async (tx: Tx, jobIds: readonly string[]): Promise<string[]> =>
  (
    await tx.query<{ hostId: string }>(
      `select distinct host_id as "hostId" from attempts where job_id = any($1::text[]) and state <> 'ended'`,
      [jobIds],
    )
  ).rows.map((row) => row.hostId);
