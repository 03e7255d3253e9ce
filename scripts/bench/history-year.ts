// The rows of a year of finished videos, a day at a time: what narrated-video writes when every stage succeeds at its first try.
// References are not checked while they are written; none dangles.
import type { Tx } from "../../control-plane/src/store/database.ts";

const stages = ["script", "speech", "visuals", "subtitles", "render", "validate", "package"];

const day = `
  with made as (
    select 'v_Y' || lpad(($1::int * $2::int + n)::text, 25, '0') as id, clock_timestamp() - make_interval(days => $3::int - $1::int) as at
    from generate_series(1, $2::int) n),
  jobs_made as (
    insert into jobs (id, pipeline, pipeline_version, user_id, channel_id, request, estimated_micros, halt_micros, rank, state, spent_micros,
                      result, created_at, started_at, ended_at)
    select id, 'narrated-video', 1, 'user', 'channel', jsonb_build_object('script', repeat('A sentence of a script. ', 40)), 1200000, 3000000, 1,
           'completed', 900000, '{"video": "video.mp4", "cost": 0.9, "seconds": 240}', at - interval '6 minutes', at - interval '5 minutes', at from made),
  stages_made as (
    insert into stages (job_id, position, name, kind, state, spec, open_needs, estimated_micros, rank, user_id, pipeline, shape, tries, attempts,
                        output_fence, result, queued_at, started_at, ended_at)
    select id, s.n, s.name, 'render', 'succeeded',
           jsonb_build_object('needs', array['script'], 'uploads', false, 'timeoutMs', 600000, 'retries', 2, 'backoffMs', 5000, 'providers', '[]'::jsonb,
             'params', jsonb_build_object('width', 1920, 'height', 1080, 'fps', 30, 'preset', 'medium', 'crf', 20, 'audio', 'aac', 'bitrate', '192k'),
             'resources', jsonb_build_object('cores', 2, 'memoryBytes', 1073741824, 'scratchBytes', 1073741824, 'gpu', 'none', 'gpuMemoryBytes', 0)),
           0, 170000, 1, 'user', 'narrated-video', md5(s.name), 1, 1, nextval('fences'), '{"cost": 0.12, "duration_seconds": 60.02}',
           at - interval '6 minutes', at - interval '5 minutes', at
    from made, unnest($4::text[]) with ordinality as s(name, n)
    returning id, job_id, name, output_fence, started_at, ended_at),
  tried as (
    insert into attempts (id, stage_id, job_id, host_id, number, fence, state, outcome, allocation, hold_micros, charge_micros, offered_at, started_at,
                          lease_until, ended_at, progress, step, verdict, usage)
    select 'a_Y' || lpad(id::text, 25, '0'), id, job_id, 'h_' || lpad('1', 26, '0'), 1, output_fence, 'ended', 'succeeded',
           '{"cores": 2, "gpuUuid": "", "memoryBytes": 1073741824, "scratchBytes": 1073741824, "gpuMemoryBytes": 0}', 170000, 120000, started_at,
           started_at, ended_at, ended_at, 1, 'encode', '{"rule": "succeeded"}', '[{"service": "cpu_compute", "unit": "core_second", "quantity": 31.2}]'
    from stages_made returning id, job_id, fence),
  paid as (
    insert into ledger (job_id, attempt_id, kind, service, provider, micros, basis)
    select job_id, id, k.kind, k.service, k.provider, k.micros, k.basis::jsonb from tried,
           (values ('hold', 'stage', '', 170000, '{"estimate": true}'), ('release', 'stage', '', 170000, '{}'),
                   ('charge', 'cpu_compute', 'host', 120000, '{"unit": "core_second", "price": 0.0000125, "quantity": 31.2}')) k(kind, service, provider, micros, basis)),
  told as (
    insert into events (type, job_id, host_id, body, at, published_seq)
    select t.type, job_id, 'h_' || lpad('1', 26, '0'),
           jsonb_build_object('stage', 'render', 'attempt', tried.id, 'number', 1, 'host', 'render-01.example'), clock_timestamp(), nextval('event_publications')
    from tried, (values ('stage.ready'), ('stage.offered'), ('stage.started'), ('stage.completed'), ('progress')) t(type)),
  stored as (
    insert into artifacts (sha256, size_bytes) select md5(id::text || $1) || md5('x' || id || $1), 1000000 from stages_made)
  insert into files (job_id, stage, fence, name, sha256, media_type)
  select job_id, name, output_fence, 'output.mp4', md5(id::text || $1) || md5('x' || id || $1), 'video/mp4' from stages_made`;

export const writeYear = async (sql: Tx, days: number, perDay: number): Promise<void> => {
  await sql.query(
    `insert into hosts (id, name, inventory, intent) values ('h_' || lpad('1', 26, '0'), 'render-01', '{}', 'revoked')`,
  );
  const tables = ["jobs", "stages", "attempts", "ledger", "events", "files", "artifacts"];
  for (const table of tables) await sql.query(`alter table ${table} disable trigger all`);
  try {
    for (let n = 0; n < days; n++) await sql.query(day, [n, perDay, days, stages]);
  } finally {
    for (const table of tables) await sql.query(`alter table ${table} enable trigger all`);
  }
};
