-- The facts of Renderplane. Forward only; never changed once landed.
-- The database is the second witness of every rule that money or a customer depends on: CHECKs, one live attempt a stage,
-- one terminal event a job, one settlement an attempt. Times are timestamptz from this database's clock.

create table jobs (
  id              text primary key check (id ~ '^v_[0-9A-HJKMNP-TV-Z]{26}$'),
  -- Id that an older client chose (a UUID), or null.
  external_id     text unique,
  pipeline        text not null,
  pipeline_version int not null,
  user_id         text not null,
  channel_id      text not null,
  priority        int  not null default 5 check (priority between 1 and 9),
  complexity      text not null default 'simple' check (complexity in ('simple', 'complex', 'premium')),
  state           text not null default 'queued' check (state in ('queued', 'processing', 'completed', 'failed', 'cancelled')),
  request         jsonb not null,
  -- Estimate at submission, and the running sums of the ledger for this job (micro-dollars).
  estimated_micros bigint not null check (estimated_micros >= 0),
  held_micros     bigint not null default 0 check (held_micros >= 0),
  spent_micros    bigint not null default 0 check (spent_micros >= 0),
  -- The job stops before it would spend more than this.
  halt_micros     bigint not null check (halt_micros >= 0),
  cancel_requested_at timestamptz,
  failure         jsonb,
  result          jsonb,
  -- Whole milliseconds: what a client's cursor can carry back.
  created_at      timestamptz not null default date_trunc('milliseconds', clock_timestamp()),
  started_at      timestamptz,
  ended_at        timestamptz,
  check ((state in ('completed', 'failed', 'cancelled')) = (ended_at is not null))
);
create index jobs_open on jobs (created_at) where state in ('queued', 'processing');
create index jobs_recent on jobs (created_at desc, id desc);
create index jobs_state_recent on jobs (state, created_at desc, id desc);

create table artifacts (
  sha256      text primary key check (sha256 ~ '^[0-9a-f]{64}$'),
  size_bytes  bigint not null check (size_bytes >= 0),
  created_at  timestamptz not null default clock_timestamp()
);

create table stages (
  id          bigint generated always as identity primary key,
  job_id      text not null references jobs on delete cascade,
  position    int  not null,
  name        text not null,
  kind        text not null,
  state       text not null check (state in ('pending','ready','offered','running','waiting','blocked','cancelling','succeeded','failed','cancelled','skipped')),
  -- What the pipeline says about it, copied so that a running job never changes: needs, params, resources, timeout, retries.
  spec        jsonb not null,
  -- Stages it needs that have not succeeded yet; 0 unlocks it.
  open_needs  int  not null check (open_needs >= 0),
  -- Tries that count against the retries, and the number of the newest attempt.
  tries       int  not null default 0 check (tries >= 0),
  attempts    int  not null default 0 check (attempts >= 0),
  -- Hosts to avoid for this stage, with the reason, newest last.
  avoid       jsonb not null default '[]',
  estimated_micros bigint not null check (estimated_micros >= 0),
  -- Copied from the job: the order of the queue needs no join.
  priority    int  not null,
  queued_at   timestamptz not null default clock_timestamp(),
  run_at      timestamptz not null default clock_timestamp(),
  -- Why it was not placed at the last look: what `explain` shows while it waits.
  waiting_reason jsonb,
  -- Fence of the one attempt whose outputs count.
  output_fence bigint,
  result      jsonb,
  failure     jsonb,
  started_at  timestamptz,
  ended_at    timestamptz,
  unique (job_id, name),
  unique (job_id, position),
  check ((state = 'succeeded') = (output_fence is not null)),
  check ((state in ('succeeded','failed','cancelled','skipped')) = (ended_at is not null))
);
-- The head of the queue, and the retries that wait for their time.
create index stages_ready on stages (priority desc, queued_at, id) where state = 'ready';
create index stages_waiting on stages (run_at) where state = 'waiting';

create sequence fences as bigint;

create table hosts (
  id            text primary key check (id ~ '^h_[0-9A-HJKMNP-TV-Z]{26}$'),
  name          text not null unique check (name ~ '^[a-z0-9][a-z0-9.-]{0,62}$'),
  -- Intent is what people want, presence what we see, grade how healthy it is: three separate facts.
  intent        text not null default 'open' check (intent in ('open','cordoned','draining','quarantined','revoked')),
  grade         text not null default 'good' check (grade in ('good','degraded','bad')),
  inventory     jsonb not null,
  instance_id   text not null default '',
  agent_version text not null default '',
  epoch         bigint not null default 0,
  -- The replica that holds its stream; null when none does.
  replica       text,
  health        jsonb not null default '{}',
  last_seen_at  timestamptz,
  created_at    timestamptz not null default clock_timestamp()
);

create table certificates (
  serial        text primary key,
  host_id       text not null references hosts,
  public_key_sha256 text not null,
  pem           text not null,
  issued_at     timestamptz not null default clock_timestamp(),
  expires_at    timestamptz not null,
  revoked_at    timestamptz
);

create table join_tokens (
  id            text primary key,
  secret_sha256 text not null,
  max_uses      int not null default 1 check (max_uses > 0),
  uses          int not null default 0,
  expires_at    timestamptz not null,
  created_at    timestamptz not null default clock_timestamp(),
  revoked_at    timestamptz,
  check (uses <= max_uses)
);

create table attempts (
  id          text primary key check (id ~ '^a_[0-9A-HJKMNP-TV-Z]{26}$'),
  stage_id    bigint not null references stages on delete cascade,
  job_id      text not null references jobs on delete cascade,
  host_id     text not null references hosts,
  number      int  not null,
  fence       bigint not null unique,
  state       text not null default 'offered' check (state in ('offered','running','ended')),
  outcome     text check (outcome in ('succeeded','failed','refused','expired','interrupted','lost','cancelled')),
  allocation  jsonb not null,
  -- The offer has left for the host's current session (epoch); null means it must be sent (again).
  offered_epoch bigint,
  hold_micros bigint not null check (hold_micros >= 0),
  charge_micros bigint not null default 0 check (charge_micros >= 0),
  offered_at  timestamptz not null default clock_timestamp(),
  started_at  timestamptz,
  lease_until timestamptz not null,
  progress    real not null default 0,
  step        text not null default '',
  eta_ms      bigint,
  failure     jsonb,
  -- The rule that decided what follows, with the facts it saw.
  verdict     jsonb,
  usage       jsonb not null default '[]',
  ended_at    timestamptz,
  unique (stage_id, number),
  check ((state = 'ended') = (outcome is not null)),
  check ((state = 'ended') = (ended_at is not null))
);
-- Invariant 1: at most one live attempt a stage.
create unique index attempts_one_live on attempts (stage_id) where state <> 'ended';
create index attempts_live_lease on attempts (lease_until) where state <> 'ended';
create index attempts_live_host on attempts (host_id) where state <> 'ended';
create index attempts_job on attempts (job_id);

-- Outputs of attempts and uploads of jobs, by name. attempt_id null: the caller's upload.
create table files (
  job_id      text not null references jobs on delete cascade,
  stage       text not null default '',
  fence       bigint not null default 0,
  name        text not null,
  sha256      text not null references artifacts,
  media_type  text not null,
  primary key (job_id, stage, fence, name)
);
create index files_sha256 on files (sha256);

-- Append-only. Sum of a job's holds minus releases is jobs.held_micros; sum of charges is jobs.spent_micros.
create table ledger (
  id          bigint generated always as identity primary key,
  job_id      text not null references jobs on delete cascade,
  attempt_id  text not null references attempts on delete cascade,
  kind        text not null check (kind in ('hold','charge','release')),
  service     text not null,
  provider    text not null default '',
  micros      bigint not null check (micros >= 0),
  -- What was measured: unit, quantity, price.
  basis       jsonb not null default '{}',
  at          timestamptz not null default clock_timestamp(),
  unique (attempt_id, kind, service, provider)
);
create index ledger_job on ledger (job_id);

-- Immutable facts, written in the transaction of the change that they report. published_seq is given by the relay in the
-- order of publication, so a reader that remembers the last one it saw misses nothing (ids may commit out of order).
create table events (
  id          bigint generated always as identity primary key,
  type        text not null,
  job_id      text references jobs on delete cascade,
  host_id     text,
  is_terminal boolean not null default false,
  body        jsonb not null,
  at          timestamptz not null default clock_timestamp(),
  published_seq bigint unique
);
create sequence event_publications as bigint;
create index events_unpublished on events (id) where published_seq is null;
create index events_job on events (job_id, id);
-- Invariant 5: exactly one terminal event a job.
create unique index events_one_terminal on events (job_id) where is_terminal;

create table idempotency (
  key         text primary key,
  fingerprint text not null,
  job_id      text not null references jobs on delete cascade,
  created_at  timestamptz not null default clock_timestamp()
);

-- Small facts of the installation itself: authority, signing key of artifact addresses.
create table installation (
  name        text primary key,
  value       jsonb not null,
  created_at  timestamptz not null default clock_timestamp()
);

create function refuse_change() returns trigger language plpgsql as $$
begin
  raise exception 'rows of % never change', tg_table_name using errcode = 'check_violation';
end $$;
create trigger ledger_append_only before update on ledger for each row execute function refuse_change();

-- Invariant 6: what has ended stays as it ended.
create function refuse_leaving_end() returns trigger language plpgsql as $$
begin
  if old.ended_at is not null and new.state is distinct from old.state then
    raise exception '% % has ended as % and cannot become %', tg_table_name, old.id, old.state, new.state using errcode = 'check_violation';
  end if;
  return new;
end $$;
create trigger jobs_end before update of state on jobs for each row execute function refuse_leaving_end();
create trigger stages_end before update of state on stages for each row execute function refuse_leaving_end();
create trigger attempts_end before update of state on attempts for each row execute function refuse_leaving_end();

-- The tables of requirements 002, for readers that know those names.
create view video_queue as
  select j.id, j.user_id, j.channel_id, j.priority, j.state as status, j.complexity, j.request as request_data,
         (j.estimated_micros / 1e6)::numeric(12, 6) as estimated_cost,
         (j.spent_micros / 1e6)::numeric(12, 6) as actual_cost,
         j.created_at, j.started_at as processing_started_at, j.ended_at as completed_at,
         extract(epoch from (j.ended_at - j.started_at)) as processing_time_seconds,
         coalesce((select sum(greatest(s.tries - 1, 0)) from stages s where s.job_id = j.id), 0)::int as retry_count,
         coalesce((select jsonb_agg(jsonb_build_object('error', a.failure ->> 'message', 'timestamp', a.ended_at) order by a.ended_at)
                   from attempts a where a.job_id = j.id and a.failure is not null), '[]'::jsonb) as error_log,
         j.result as metadata
  from jobs j;
create view pipeline_costs as
  select l.id, l.job_id as video_id, l.service, s.name as operation, (l.micros / 1e6)::numeric(12, 6) as amount, l.at as "timestamp"
  from ledger l join attempts a on a.id = l.attempt_id join stages s on s.id = a.stage_id
  where l.kind = 'charge';
create table analytics_data (
  id          bigint generated always as identity primary key,
  channel_id  text,
  metric_type text not null,
  metric_value jsonb not null,
  "timestamp" timestamptz not null default clock_timestamp()
);
create index analytics_data_channel on analytics_data (channel_id, metric_type, "timestamp" desc);
