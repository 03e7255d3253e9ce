// What history weighs and what forgetting it costs: 500 videos a day for as long as they are kept and a month more, with the rows that
// the engine writes for one (each stage tried once, its costs, events and files), the size of every table a job, and the removal of
// that month in the batches of the product. Then churn: stages claimed and finished by the real operations until the tables have turned over, with
// what is dead and how long a batch takes, without and with an old snapshot that keeps vacuum from clearing anything.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { silentLogger } from "@renderplane/proto/kernel/process/logger.ts";
import type { Context } from "../../control-plane/src/operations/context.ts";
import { newPruneMemory, pruneHistory } from "../../control-plane/src/operations/prune-history.ts";
import type { Database, Tx } from "../../control-plane/src/store/database.ts";
import { migrate } from "../../control-plane/src/store/migrate.ts";
import { openFleetBed } from "../fleet/fleet-bed.ts";
import { createBacklog } from "./backlog.ts";
import { type Bench, percentile } from "./bed.ts";
import { writeYear } from "./history-year.ts";
import { insertHosts, oneRound, openContext } from "./store.ts";

const sizes = {
  full: { days: 120, perDay: 500, pruneDays: 30, cycles: 200_000, snapshotMs: 60_000, hosts: 160 },
  small: { days: 10, perDay: 20, pruneDays: 3, cycles: 1_500, snapshotMs: 1_000, hosts: 10 },
};
const dayMs = 24 * 60 * 60_000;
const tables = ["jobs", "stages", "attempts", "ledger", "events", "files", "artifacts"];

export const history: Bench = {
  name: "history",
  run: async (say, signal, { isSmall }) => {
    const size = isSmall ? sizes.small : sizes.full;
    const bed = await openFleetBed({ replicas: 0, signal });
    const dir = await mkdtemp(join(tmpdir(), "renderplane-history-"));
    try {
      await migrate(bed.address, silentLogger());
      const ctx = await openContext(bed.address, dir);
      try {
        await writeYear(bed.sql, size.days, size.perDay);
        for (const table of tables) await bed.sql.query(`vacuum (analyze) ${table}`);
        const jobs = size.days * size.perDay;
        const weights = await weigh(bed.sql, jobs);
        say(`${jobs} jobs written`);
        const pruned = await pruneAll(ctx, (size.days - size.pruneDays) * dayMs, signal);
        say(`${pruned.jobs} jobs removed in ${pruned.batches.length} batches`);
        const hosts = await insertHosts(ctx.db.direct, size.hosts);
        const backlog = createBacklog(bed.sql);
        const churn = async (cycles: number) => {
          const stageMs: number[] = [];
          for (let done = 0; done < cycles; ) {
            signal.throwIfAborted();
            await backlog.add(Math.min(10_000, cycles - done), false);
            for (let round = -1; round !== 0; done += Math.max(0, round)) {
              const { stages, times } = await oneRound(ctx, hosts);
              if (stages > 0) stageMs.push(times.place / stages);
              round = stages;
            }
          }
          return { stageMs, dead: await dead(bed.sql) };
        };
        const free = await churn(size.cycles);
        say(`${size.cycles} cycles done`);
        const held = await withOldSnapshot(bed.db, size.snapshotMs, () => churn(Math.ceil(size.cycles / 10)));
        const after = await churn(Math.ceil(size.cycles / 10));
        const figures = {
          jobs,
          weights,
          pruned: summary(pruned),
          churn: { free: shape(free), held: shape(held), after: shape(after) },
        };
        return { figures, markdown: pageOf(figures, size) };
      } finally {
        await ctx.bus.stop();
        await ctx.db.stop();
      }
    } finally {
      await rm(dir, { recursive: true, force: true });
      await bed.stop();
    }
  },
};

type Weight = {
  readonly table: string;
  readonly rows: number;
  readonly heapBytes: number;
  readonly indexBytes: number;
};
/** A job of these; the rest of a table (its empty pages, its map) is counted as if the jobs shared it. */
const weigh = async (sql: Tx, jobs: number): Promise<Weight[]> =>
  (
    await sql.query<Weight>(
      `select relname as table, (greatest(c.reltuples, 0) / $2)::float8 as rows, (pg_table_size(c.oid) / $2::float8) as "heapBytes",
              (pg_indexes_size(c.oid) / $2::float8) as "indexBytes"
       from pg_class c where relname = any($1::text[]) and relkind = 'r' order by pg_total_relation_size(c.oid) desc`,
      [tables, jobs],
    )
  ).rows;

type Batches = { readonly jobs: number; readonly batches: readonly number[] };
const pruneAll = async (ctx: Context, keepMs: number, signal: AbortSignal): Promise<Batches> => {
  const memory = newPruneMemory();
  // What the walk over artifacts costs is another figure; a job's batch is measured alone.
  memory.artifactsAfter = undefined;
  memory.walkedAt = performance.now();
  const batches: number[] = [];
  for (let jobs = 0; ; ) {
    signal.throwIfAborted();
    const began = performance.now();
    const turn = await pruneHistory(ctx, memory, { jobsMs: keepMs, hostsMs: keepMs });
    if (turn.jobs === 0) return { jobs, batches };
    jobs += turn.jobs;
    batches.push(performance.now() - began);
  }
};

/** Holds a snapshot, as a backup or a forgotten session does, for at least so long. */
const withOldSnapshot = async <T>(db: Database, ms: number, act: () => Promise<T>): Promise<T> =>
  db.transaction(async (tx) => {
    await tx.query("set transaction isolation level repeatable read");
    await tx.query("set local idle_in_transaction_session_timeout = 0");
    await tx.query("select 1 from jobs limit 1");
    const began = performance.now();
    let last: T;
    do last = await act();
    while (performance.now() - began < ms);
    return last;
  });

type Dead = {
  readonly table: string;
  readonly live: number;
  readonly dead: number;
  readonly bytes: number;
  readonly hot: number;
};
const dead = async (sql: Tx): Promise<Dead[]> => {
  await sql.query("select pg_stat_force_next_flush()");
  return (
    await sql.query<Dead>(
      `select relname as table, n_live_tup::float8 as live, n_dead_tup::float8 as dead, pg_total_relation_size(relid)::float8 as bytes,
              (n_tup_hot_upd * 100.0 / greatest(n_tup_upd, 1))::float8 as hot
       from pg_stat_user_tables where relname = any($1::text[]) order by 1`,
      [["jobs", "stages", "attempts"]],
    )
  ).rows;
};

const shape = ({ stageMs, dead: rows }: { readonly stageMs: readonly number[]; readonly dead: readonly Dead[] }) => ({
  placeMsP50: percentile(stageMs, 0.5),
  placeMsP99: percentile(stageMs, 0.99),
  tables: rows,
});
const summary = ({ jobs, batches }: Batches) => ({
  jobs,
  batchMsP50: percentile(batches, 0.5),
  batchMsP99: percentile(batches, 0.99),
  jobsPerSecond: jobs / (batches.reduce((sum, ms) => sum + ms, 0) / 1000),
});

type Figures = {
  readonly jobs: number;
  readonly weights: readonly Weight[];
  readonly pruned: ReturnType<typeof summary>;
  readonly churn: { readonly [K in "free" | "held" | "after"]: ReturnType<typeof shape> };
};
const kib = (bytes: number) => (bytes / 1024).toFixed(1);
const mib = (bytes: number) => (bytes / 1024 ** 2).toFixed(0);
const pageOf = ({ jobs, weights, pruned, churn }: Figures, size: (typeof sizes)["full"]): string => {
  const total = weights.reduce((sum, w) => sum + w.heapBytes + w.indexBytes, 0);
  const churnRow = (name: string, part: ReturnType<typeof shape>) =>
    `| ${name} | ${part.placeMsP50.toFixed(3)} | ${part.placeMsP99.toFixed(3)} | ${part.tables.map((t) => `${t.table} ${Math.round(t.dead)} / ${mib(t.bytes)} MiB`).join(", ")} |`;
  return [
    `${size.perDay} videos a day for ${size.days} days: ${jobs} jobs of seven stages. A job weighs ${kib(total)} KiB, a day ${mib(total * size.perDay)} MiB, the ninety days that are kept ${mib(total * size.perDay * 90)} MiB; of a year, 365 rows of sums a lane remain.`,
    "",
    "| table | rows a job | table KiB a job | indexes KiB a job |",
    "| --- | --- | --- | --- |",
    ...weights.map((w) => `| ${w.table} | ${w.rows.toFixed(1)} | ${kib(w.heapBytes)} | ${kib(w.indexBytes)} |`),
    "",
    `Removing ${pruned.jobs} of them in batches of at most 100: ${pruned.batchMsP50.toFixed(0)} ms a batch (p99 ${pruned.batchMsP99.toFixed(0)} ms), ${Math.round(pruned.jobsPerSecond)} jobs a second of work.`,
    "",
    `Then ${size.cycles} one-stage jobs placed, accepted and finished; a tenth of that again while a snapshot is held open for at least ${size.snapshotMs / 1000} s, and a tenth after it.`,
    "",
    "| | placing a stage, p50 ms | p99 ms | dead rows / size |",
    "| --- | --- | --- | --- |",
    churnRow("as it is", churn.free),
    churnRow("old snapshot held", churn.held),
    churnRow("after it", churn.after),
  ].join("\n");
};
