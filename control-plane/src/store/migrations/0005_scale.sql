-- A queue of a million stages and a year of history: rows that change often stay on their page, dead ones are cleared early, and
-- what is thrown away after its time is found by an index. docs/benchmarks.md has what it was measured by.

-- A page with room takes the new version of a row in itself, and no index is written (HOT), unless an indexed column changes.
-- Hosts change with every heartbeat; attempts with every renewal; jobs when money is held; stages when a reason is noted.
alter table hosts set (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 200);
alter table attempts set (fillfactor = 60);
alter table jobs set (fillfactor = 80);
alter table stages set (fillfactor = 85);

-- The end of a lease stood in an index, so every renewal of every lease wrote all of the table's eight indexes. Those that can be
-- overdue are the live ones, which attempts_live_host has: as many as run at this moment, however long the history is.
drop index attempts_live_lease;
-- Offers live for seconds: what the watch over unsent offers reads.
create index attempts_offered on attempts (host_id) where state = 'offered';

-- Refused and delayed stages, which are ready but not yet. A stage that was never tried has no time of its own.
create index stages_again on stages (run_at) where state = 'ready' and attempts > 0;

-- Jobs without a deadline stood in this index, too: every look for missed ones read the whole queue.
drop index jobs_deadline;
create index jobs_deadline on jobs (deadline_at)
  where deadline_at is not null and deadline_missed_at is null and state in ('queued', 'processing');

-- Every stage changes its state four times in its life: at 2 % of a large table instead of 20 % the dead versions are few, and
-- a round of vacuum is short. The limit of the cost is five times the default, so that it keeps up with thousands of stages a second.
alter table jobs set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_cost_limit = 1000);
alter table stages set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_cost_limit = 1000);
alter table attempts set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_cost_limit = 1000);
-- Written once or twice and then only read and removed.
alter table events set (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_limit = 1000);
alter table ledger set (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_limit = 1000);
alter table files set (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000);

-- What is removed after its time (store/retention.ts), oldest first.
create index jobs_ended on jobs (ended_at) where ended_at is not null;
create index events_of_hosts on events (at) where job_id is null;
create index idempotency_created on idempotency (created_at);
-- Without it the removal of a job reads the whole table for its key.
create index idempotency_job on idempotency (job_id);

-- What is left of jobs that were removed: one row a day, pipeline and complexity, written in the transaction that removes them.
-- The day is that of their end, in UTC.
create table history_days (
  day         date not null,
  pipeline    text not null,
  complexity  text not null,
  jobs        bigint not null,
  completed   bigint not null,
  failed      bigint not null,
  cancelled   bigint not null,
  -- From their start to their end, summed up.
  seconds     double precision not null,
  micros      bigint not null,
  primary key (day, pipeline, complexity)
);

-- Every job that ever ended, removed or not: what a year took and cost.
create view job_days as
  select day, pipeline, complexity, sum(jobs)::bigint as jobs, sum(completed)::bigint as completed, sum(failed)::bigint as failed,
         sum(cancelled)::bigint as cancelled, sum(seconds) as seconds, sum(micros)::bigint as micros
  from (
    select day, pipeline, complexity, jobs, completed, failed, cancelled, seconds, micros from history_days
    union all
    select (ended_at at time zone 'utc')::date, pipeline, complexity, count(*), count(*) filter (where state = 'completed'),
           count(*) filter (where state = 'failed'), count(*) filter (where state = 'cancelled'),
           sum(extract(epoch from ended_at - coalesce(started_at, ended_at)))::float8, sum(spent_micros)::bigint
    from jobs where ended_at is not null group by 1, 2, 3) parts
  group by 1, 2, 3;
