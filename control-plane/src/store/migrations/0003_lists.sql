-- Lists by their filters in the order that they are shown, newest first; the history of a lane; deadlines that end a job.
create index jobs_user_recent on jobs (user_id, created_at desc, id desc);
create index jobs_channel_recent on jobs (channel_id, created_at desc, id desc);
create index jobs_pipeline_recent on jobs (pipeline, created_at desc, id desc);
-- What the last jobs of a lane took and cost: what estimates are made of.
create index jobs_lane_history on jobs (pipeline, complexity, ended_at desc) where state = 'completed';
-- Missed and to be cancelled, but not cancelled yet: empty but for the moment between the two, or after a crash there.
create index jobs_deadline_cancel on jobs (deadline_missed_at)
  where on_deadline = 'cancel' and deadline_missed_at is not null and cancel_requested_at is null and state in ('queued', 'processing');
