-- The life of a host as operators see it: what was told of it, who holds its identity, and when its work was given away.

alter table hosts
  -- Presence as the last event told it: one event an episode of silence, whoever leads the loop that looks.
  add column told_presence text not null default 'offline' check (told_presence in ('online', 'suspect', 'offline')),
  -- Its agent said goodbye: it is away on purpose and does not count as lost with its pool.
  add column left_at timestamptz,
  -- Draining only: nothing was held any more, and the event says so.
  add column drained_at timestamptz,
  -- Its identity was used by two agents; its certificates are refused until a person releases it.
  add column copied_at timestamptz,
  -- Its leases were given away last; so many hosts of a pool a minute, and no more.
  add column lost_at timestamptz;
update hosts set told_presence = 'online' where replica is not null;

-- A certificate replaces the older ones only once it was used: an answer that got lost locks nobody out.
alter table certificates add column first_used_at timestamptz;
create index certificates_host on certificates (host_id);

create index host_sessions_open on host_sessions (replica) where closed_at is null;

-- Null while the valve is closed.
alter table pool_valves
  add column opened_at timestamptz,
  add column opened_by text not null default '';

-- When a loop last had its turn, and since when its turns come without a gap: whoever leads it, its judgements of silence begin
-- where we could have heard.
create table pulses (
  name  text primary key,
  at    timestamptz not null,
  since timestamptz not null
);
