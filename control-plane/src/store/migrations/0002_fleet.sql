-- A fleet: many replicas of the control plane, hundreds of hosts, a queue with shares and deadlines.

-- The place in the queue is one number, smallest first (milliseconds, see domain/queue-order.ts): a share of its owners in time,
-- pulled forward by the priority. One key means one index, and nothing is sorted or scanned to find the head.
alter table jobs
  add column rank bigint,
  add column not_before timestamptz,
  add column deadline_at timestamptz,
  -- report: an event once the deadline has passed; cancel: the job is cancelled then.
  add column on_deadline text not null default 'report' check (on_deadline in ('report', 'cancel')),
  add column deadline_missed_at timestamptz;
update jobs set rank = (extract(epoch from created_at) * 1000)::bigint - priority * 100000000::bigint
  - case complexity when 'premium' then 50000000 else 0 end;
alter table jobs alter column rank set not null;
create index jobs_queued on jobs (rank, id) where state = 'queued';
create index jobs_processing on jobs (pipeline, user_id) where state = 'processing';
create index jobs_deadline on jobs (deadline_at) where deadline_missed_at is null and state in ('queued', 'processing');

-- Copied from the job, so that the head of the queue and its gates need no join. `shape` is a digest of what decides whether a
-- host can take the stage: two stages of one shape fit on the same hosts.
alter table stages
  add column rank bigint,
  add column user_id text,
  add column pipeline text,
  add column shape text not null default '';
update stages s set rank = j.rank, user_id = j.user_id, pipeline = j.pipeline from jobs j where j.id = s.job_id;
update stages set shape = md5(jsonb_build_object('kind', kind, 'providers', spec -> 'providers', 'resources', spec -> 'resources')::text);
alter table stages alter column rank set not null, alter column user_id set not null, alter column pipeline set not null;
drop index stages_ready;
alter table stages drop column priority;
create index stages_ready on stages (rank, id) include (job_id, run_at, shape, user_id, pipeline) where state = 'ready';

-- Where the next job of an owner stands at the earliest: "user:<user>" and "channel:<user>/<channel>".
create table shares (
  key         text primary key,
  next_at     timestamptz not null
);

-- Every running process of the control plane. The id is the replica's name and a suffix of this start; silent ones are removed.
create table replicas (
  id          text primary key,
  name        text not null,
  version     text not null,
  -- Where agents and people reach this replica; '' when it is not known.
  agent_address text not null default '',
  http_address text not null default '',
  sessions    int not null default 0,
  started_at  timestamptz not null default clock_timestamp(),
  last_seen_at timestamptz not null default clock_timestamp()
);

-- Who runs a loop. The term grows with every change of the holder and is checked inside every transaction of a turn, so that a
-- holder that slept through its lease writes nothing.
create table leaders (
  loop        text primary key,
  holder      text not null,
  term        bigint not null,
  lease_until timestamptz not null
);

alter table hosts drop constraint hosts_intent_check;
alter table hosts
  add constraint hosts_intent_check check (intent in ('open', 'cordoned', 'draining', 'maintenance', 'quarantined', 'revoked')),
  add column intent_reason text not null default '',
  -- Draining only: when what still runs is given back; null means it may finish.
  add column drain_until timestamptz,
  -- Hosts of one pool are judged together when many fall silent at once.
  add column pool text not null default 'default';
create index hosts_replica on hosts (replica) where replica is not null;

-- One row a session: who held the identity of a host, and when. Two processes that take turns are a copied identity.
create table host_sessions (
  host_id     text not null references hosts on delete cascade,
  epoch       bigint not null,
  instance_id text not null,
  replica     text not null,
  opened_at   timestamptz not null default clock_timestamp(),
  closed_at   timestamptz,
  primary key (host_id, epoch)
);
create index host_sessions_opened on host_sessions (opened_at);

-- A certificate that was replaced; used again later it is a copy.
alter table certificates add column superseded_at timestamptz;

-- A pool in which so many hosts fell silent at once that we are more likely cut off than they are dead: nothing is given away.
create table pool_valves (
  pool        text primary key,
  closed_at   timestamptz not null default clock_timestamp(),
  opens_at    timestamptz not null,
  reason      text not null
);
