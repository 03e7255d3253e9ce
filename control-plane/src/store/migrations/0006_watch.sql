-- What a replica asks every second about its own hosts (store/watch.ts): each index holds only rows that somebody must act on, so the
-- question costs the same with ten hosts and with ten thousand.

create index stages_cancelling on stages (id) where state = 'cancelling';
create index hosts_draining on hosts (replica) where intent = 'draining' and drain_until is not null;
create index hosts_refused on hosts (replica) where intent = 'revoked' or copied_at is not null;
create index certificates_revoked on certificates (revoked_at) where revoked_at is not null;
create index certificates_superseded on certificates (superseded_at) where superseded_at is not null;
