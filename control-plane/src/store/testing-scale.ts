// A database as it is after a year and before a flood: a million stages that wait in front of every free host, some of them for a
// time, every tenth job with a deadline, and two hundred thousand that have ended, with attempts, costs, events and files. Only tests import this. Rows are what the engine writes, only
// many at a time; references are not checked while they are written, and none dangles.
import type { InventoryRecord, StageSpec } from "../domain/records.ts";
import type { Database } from "./database.ts";
import { connectPostgres } from "./postgres.ts";

export const queuedJobs = 260_000;
export const endedJobs = 50_000;
export const stagesPerJob = 4;
/** Jobs of one statement: a second of work, and memory of the server that does not grow with the size. */
const chunk = 10_000;
const endedChunk = 2_500;
const fillMs = 300_000;
/** Two connections, as many as the machines of the tests have cores. */
const lanes = 2;

const spec: StageSpec = {
  needs: [],
  uploads: false,
  params: {},
  timeoutMs: 60_000,
  retries: 1,
  backoffMs: 10,
  providers: [],
  // More than any host of the test has: whoever looks for work passes over all of it.
  resources: { cores: 1_000, memoryBytes: 1, scratchBytes: 1, gpu: "none", gpuMemoryBytes: 0 },
};

const jobId = (prefix: string) => `'v_${prefix}' || lpad(n::text, 25, '0')`;
const owner = `'u' || n % 500, 'c' || n % 2000`;

const queued = [
  `insert into jobs (id, pipeline, pipeline_version, user_id, channel_id, request, estimated_micros, halt_micros, rank, deadline_at)
   select ${jobId("0")}, 'pair', 1, ${owner}, '{}', 1000000, 3000000, $3::bigint + n,
          case when n % 10 = 0 then clock_timestamp() + interval '9 days' end from generate_series($1::int, $2::int) n`,
  `insert into stages (job_id, position, name, kind, state, spec, open_needs, estimated_micros, rank, user_id, pipeline, shape, run_at)
   select ${jobId("0")}, p, 's' || p, 'media', case when p = 4 and n % 10 = 0 then 'waiting' else 'ready' end, '${JSON.stringify(spec)}', 0, 250000, $3::bigint + n, 'u' || n % 500, 'pair', 'large',
          clock_timestamp() + case when p = 4 and n % 10 = 0 then interval '1 day' else interval '0' end
   from generate_series($1::int, $2::int) n, generate_series(1, ${stagesPerJob}) p`,
  `insert into events (type, job_id, body, published_seq)
   select 'job.queued', ${jobId("0")}, '{"position": 1}', nextval('event_publications') from generate_series($1::int, $2::int) n where $3::bigint > 0`,
];

/** Ended between a hundred days ago and now, evenly. */
const age = `(interval '100 days' * (1 - n::float8 / ${endedJobs}))`;
const ended = [
  `insert into jobs (id, pipeline, pipeline_version, user_id, channel_id, request, estimated_micros, halt_micros, rank, state,
                     spent_micros, created_at, started_at, ended_at)
   select ${jobId("1")}, 'pair', 1, ${owner}, '{}', 1000000, 3000000, $3::bigint - n, 'completed', 4000,
          clock_timestamp() - ${age} - interval '2 hours', clock_timestamp() - ${age} - interval '1 hour', clock_timestamp() - ${age}
   from generate_series($1::int, $2::int) n`,
  `with made as (
     insert into stages (job_id, position, name, kind, state, spec, open_needs, estimated_micros, rank, user_id, pipeline, shape,
                         tries, attempts, output_fence, result, started_at, ended_at)
     select ${jobId("1")}, p, 's' || p, 'media', 'succeeded', '${JSON.stringify(spec)}', 0, 250000, $3::bigint, 'u' || n % 500, 'pair', 'large',
            1, 1, nextval('fences'), '{"cost": 0.001}', clock_timestamp() - ${age} - interval '1 minute', clock_timestamp() - ${age}
     from generate_series($1::int, $2::int) n, generate_series(1, ${stagesPerJob}) p
     returning id, job_id, name, output_fence, started_at, ended_at),
   tried as (
     insert into attempts (id, stage_id, job_id, host_id, number, fence, state, outcome, allocation, hold_micros, charge_micros,
                           lease_until, started_at, ended_at)
     select 'a_' || lpad(id::text, 26, '0'), id, job_id, 'h_' || lpad((id % 200)::text, 26, '0'), 1, output_fence, 'ended', 'succeeded',
            '{"cores": 1, "memoryBytes": 1, "scratchBytes": 1, "gpuUuid": ""}', 250000, 1000, ended_at, started_at, ended_at from made
     returning id, job_id, fence),
   paid as (
     insert into ledger (job_id, attempt_id, kind, service, micros)
     select job_id, id, k.kind, k.service, k.micros from tried,
            (values ('hold', 'stage', 250000), ('charge', 'cpu_compute', 1000), ('release', 'stage', 250000)) k(kind, service, micros)),
   told as (
     insert into events (type, job_id, body, published_seq)
     select t.type, job_id, '{"stage": "s1"}', nextval('event_publications') from tried, (values ('stage.started'), ('stage.completed')) t(type)),
   stored as (
     insert into artifacts (sha256, size_bytes, created_at)
     select md5(id::text) || md5('x' || id), 1000, started_at from made returning sha256)
   insert into files (job_id, stage, fence, name, sha256, media_type)
   select job_id, name, output_fence, 'out.mp4', md5(id::text) || md5('x' || id), 'video/mp4' from made`,
];

/** Answers when the tables have their statistics. `headRank`: the rank of the first of the queue. */
export const fillDatabase = async (
  target: Database,
  r: { readonly headRank: bigint; readonly inventory: InventoryRecord },
): Promise<void> => {
  const db = await patient(target);
  try {
    await fill(db, r);
  } finally {
    await db.stop();
  }
};

/** The same database on connections whose statements may take minutes. */
const patient = async (target: Database): Promise<Database> => {
  const { rows } = await target.direct.query<{ socketDir: string; user: string; database: string }>(
    `select current_setting('unix_socket_directories') as "socketDir", current_user as user, current_database() as database`,
  );
  const address = rows[0];
  if (!address) throw new Error("the server does not say where it is");
  const db = connectPostgres({ ...address, applicationName: "fill", poolMax: lanes, statementMs: fillMs });
  await db.start();
  return db;
};

const tables = ["jobs", "stages", "attempts", "events", "ledger", "files", "artifacts"];

const fill = async (
  db: Database,
  { headRank, inventory }: { readonly headRank: bigint; readonly inventory: InventoryRecord },
): Promise<void> => {
  for (const table of tables) await db.direct.query(`alter table ${table} set (autovacuum_enabled = false)`);
  await db.direct.query(
    `insert into hosts (id, name, inventory, epoch) select 'h_' || lpad(n::text, 26, '0'), 'old-' || n, $1, 1 from generate_series(0, 199) n`,
    [JSON.stringify(inventory)],
  );
  // Built once over all rows an index costs a third of what it costs row by row.
  const { rows: indexes } = await db.direct.query<{ name: string; made: string }>(
    `select i.indexname as name, i.indexdef as made from pg_indexes i
     where i.schemaname = 'public' and i.tablename = any($1::text[])
       and not exists (select 1 from pg_constraint c where c.conindid = (quote_ident(i.indexname))::regclass)`,
    [tables],
  );
  for (const { name } of indexes) await db.direct.query(`drop index ${name}`);
  await inLanes([
    ...partsOf(endedJobs, endedChunk).map((part) => () => write(db, ended, [...part, headRank])),
    ...partsOf(queuedJobs, chunk).map((part) => () => write(db, queued, [...part, headRank])),
  ]);
  await inLanes(
    indexes.map(
      ({ made }) =>
        () =>
          write(db, [made]),
    ),
  );
  await inLanes(tables.map((table) => () => db.direct.query(`vacuum (analyze) ${table}`)));
};

const write = async (db: Database, statements: readonly string[], params?: readonly unknown[]): Promise<void> => {
  for (const statement of statements)
    await db.transaction(async (tx) => {
      await tx.query("set local session_replication_role = replica");
      await tx.query("set local synchronous_commit = off");
      await tx.query("set local maintenance_work_mem = '256MB'");
      await tx.query("set local lock_timeout = 0");
      await tx.query(statement, params);
    });
};

const inLanes = async (acts: readonly (() => Promise<unknown>)[]): Promise<void> => {
  let next = 0;
  const lane = async () => {
    for (let at = next++; at < acts.length; at = next++) await acts[at]?.();
  };
  await Promise.all(Array.from({ length: lanes }, lane));
};

const partsOf = (count: number, size: number): [number, number][] =>
  Array.from({ length: Math.ceil(count / size) }, (_, i) => [i * size + 1, Math.min(count, (i + 1) * size)]);
