// The queue as a whole: what runs (for the gates), what waits (for people), what lanes took before (for estimates). Every
// statement reads a partial index or a bounded part of one, so a year of ended jobs costs none of them anything.
import type { ConcurrencyCounts } from "../domain/concurrency.ts";
import { exactPlaces } from "../domain/queue-order.ts";
import type { Complexity } from "../domain/records.ts";
import type { Tx } from "./database.ts";

/** What runs now, in one statement. `providers`: those that have a limit. */
export const readConcurrency = async (tx: Tx, providers: readonly string[]): Promise<ConcurrencyCounts> => {
  const { rows } = await tx.query<{ kind: "job" | "offered" | "provider"; a: string; b: string; count: number }>(
    `with live as (
       select job_id, stage_id from attempts where state <> 'ended'),
     offered as (
       select j.id, j.pipeline, j.user_id from jobs j where j.state = 'queued' and j.id in (select job_id from live))
     select 'job' as kind, pipeline as a, user_id as b, count(*)::int as count from jobs where state = 'processing' group by 2, 3
     union all select 'job', pipeline, user_id, count(*)::int from offered group by 2, 3
     union all select 'offered', id, '', 1 from offered
     union all select 'provider', p.name, '', count(*)::int
       from live join stages s on s.id = live.stage_id join unnest($1::text[]) as p(name) on s.spec -> 'providers' ? p.name
       where cardinality($1::text[]) > 0 group by 2`,
    [providers],
  );
  const [byUser, byPipeline, byProvider] = [
    new Map<string, number>(),
    new Map<string, number>(),
    new Map<string, number>(),
  ];
  const offeredJobs = new Set<string>();
  let jobs = 0;
  const add = (map: Map<string, number>, key: string, by: number) => map.set(key, (map.get(key) ?? 0) + by);
  for (const { kind, a, b, count } of rows) {
    if (kind === "offered") offeredJobs.add(a);
    else if (kind === "provider") add(byProvider, a, count);
    else {
      jobs += count;
      add(byPipeline, a, count);
      add(byUser, b, count);
    }
  }
  return { jobs, byUser, byPipeline, byProvider, offeredJobs };
};

/** Bytes of its inputs that a host made itself, by stage: the outputs that count of the stages it needs, and who ran them. */
export const inputsAtHosts = async (
  tx: Tx,
  stageIds: readonly bigint[],
): Promise<ReadonlyMap<bigint, ReadonlyMap<string, number>>> => {
  const { rows } = await tx.query<{ stageId: bigint; hostId: string; bytes: number }>(
    `select s.id as "stageId", a.host_id as "hostId", sum(f.size_bytes)::float8 as bytes
     from stages s
     join stages n on n.job_id = s.job_id and s.spec -> 'needs' ? n.name and n.output_fence is not null
     join attempts a on a.fence = n.output_fence
     join lateral (select x.size_bytes from files f join artifacts x on x.sha256 = f.sha256
                   where f.job_id = s.job_id and f.stage = n.name and f.fence = n.output_fence) f on true
     where s.id = any($1::bigint[]) and s.open_needs = 0 and jsonb_array_length(s.spec -> 'needs') > 0 group by 1, 2`,
    [stageIds],
  );
  const byStage = new Map<bigint, Map<string, number>>();
  for (const { stageId, hostId, bytes } of rows) {
    const hosts = byStage.get(stageId) ?? new Map<string, number>();
    byStage.set(stageId, hosts.set(hostId, bytes));
  }
  return byStage;
};

export type LaneHistory = {
  /** Completed jobs that the figures are made of, 50 at most. */
  readonly jobs: number;
  /** From start to end: the 10th, 50th and 90th of a hundred. */
  readonly seconds: { readonly low: number; readonly mid: number; readonly high: number };
  readonly dollars: { readonly low: number; readonly mid: number; readonly high: number };
  /** From submission to end, the mean. */
  readonly wallSeconds: number;
};
/** The last 50 completed jobs of a lane; undefined when it has none. */
export const laneHistory = async (
  tx: Tx,
  lane: { readonly pipeline: string; readonly complexity: Complexity },
): Promise<LaneHistory | undefined> => {
  const { rows } = await tx.query<{ jobs: number; s: number[]; d: number[]; wall: number }>(
    `select count(*)::int as jobs, avg(wall)::float8 as wall,
            percentile_cont(array[0.1, 0.5, 0.9]) within group (order by seconds) as s,
            percentile_cont(array[0.1, 0.5, 0.9]) within group (order by micros) as d
     from (select extract(epoch from ended_at - started_at)::float8 as seconds, extract(epoch from ended_at - created_at)::float8 as wall,
                  spent_micros::float8 as micros
           from jobs where pipeline = $1 and complexity = $2 and state = 'completed' order by ended_at desc limit 50) last`,
    [lane.pipeline, lane.complexity],
  );
  const row = rows[0];
  if (!row || row.jobs === 0) return undefined;
  const range = ([low = 0, mid = 0, high = 0]: readonly number[], unit: number) => ({
    low: low / unit,
    mid: mid / unit,
    high: high / unit,
  });
  return { jobs: row.jobs, wallSeconds: row.wall, seconds: range(row.s, 1), dollars: range(row.d, 1e6) };
};

export type QueueLane = {
  readonly pipeline: string;
  readonly complexity: Complexity;
  readonly queued: number;
  readonly processing: number;
  readonly oldestSeconds: number | null;
};
export type QueueView = {
  readonly depth: number;
  readonly processing: number;
  /** Queued jobs that may not begin yet. */
  readonly scheduled: number;
  readonly oldestSeconds: number | null;
  /** Over the first `exactPlaces` of the queue, and everything in work. */
  readonly lanes: readonly QueueLane[];
  /** Stages of open jobs that rest before another try. */
  readonly resting: number;
  /** Jobs submitted in the last 24 hours, by what has become of them. */
  readonly day: {
    readonly enqueued: number;
    readonly completed: number;
    readonly failed: number;
    readonly cancelled: number;
  };
};
export const readQueue = async (tx: Tx): Promise<QueueView> => {
  const { rows: lanes } = await tx.query<QueueLane & { readonly scheduled: number }>(
    `with head as (select id, pipeline, complexity, created_at, not_before, state from jobs where state = 'queued' order by rank, id limit $1),
          work as (select id, pipeline, complexity, created_at, not_before, state from jobs where state = 'processing')
     select pipeline, complexity, count(*) filter (where state = 'queued')::int as queued,
            count(*) filter (where state = 'processing')::int as processing,
            count(*) filter (where state = 'queued' and not_before > clock_timestamp())::int as scheduled,
            extract(epoch from clock_timestamp() - min(greatest(created_at, not_before)) filter (where state = 'queued'
              and (not_before is null or not_before <= clock_timestamp())))::float8 as "oldestSeconds"
     from (select * from head union all select * from work) open group by 1, 2 order by 1, 2`,
    [exactPlaces],
  );
  const { rows: counts } = await tx.query<{
    depth: number;
    resting: number;
    enqueued: number;
    completed: number;
    failed: number;
    cancelled: number;
  }>(
    `with day as (select clock_timestamp() - interval '24 hours' as since)
     select (select count(*) from jobs where state = 'queued')::int as depth,
            (select count(*) from stages where state = 'waiting')::int as resting,
            (select count(*) from jobs where state = 'completed' and created_at > (select since from day))::int as completed,
            (select count(*) from jobs where state = 'failed' and created_at > (select since from day))::int as failed,
            (select count(*) from jobs where state = 'cancelled' and created_at > (select since from day))::int as cancelled,
            (select count(*) from jobs where created_at > (select since from day))::int as enqueued`,
  );
  const { depth = 0, resting = 0, enqueued = 0, completed = 0, failed = 0, cancelled = 0 } = counts[0] ?? {};
  return {
    depth,
    processing: lanes.reduce((sum, lane) => sum + lane.processing, 0),
    scheduled: lanes.reduce((sum, lane) => sum + lane.scheduled, 0),
    oldestSeconds: lanes.reduce<number | null>(
      (oldest, { oldestSeconds: s }) => (s === null ? oldest : Math.max(oldest ?? 0, s)),
      null,
    ),
    lanes: lanes.map(({ scheduled: _, ...lane }) => lane),
    resting,
    day: { enqueued, completed, failed, cancelled },
  };
};

export type HeadJob = {
  readonly id: string;
  readonly pipeline: string;
  readonly userId: string;
  readonly channelId: string;
  readonly priority: number;
  readonly complexity: Complexity;
  readonly rank: bigint;
  readonly createdAt: Date;
  readonly notBefore: Date | null;
};
/** The first jobs that wait, in their order. */
export const queueHead = async (tx: Tx, limit: number): Promise<HeadJob[]> =>
  (
    await tx.query<HeadJob>(
      `select id, pipeline, user_id as "userId", channel_id as "channelId", priority, complexity, rank, created_at as "createdAt",
              not_before as "notBefore" from jobs where state = 'queued' order by rank, id limit $1`,
      [limit],
    )
  ).rows;
