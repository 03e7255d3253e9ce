// A database whose clock is set by a test: all SQL of the product says clock_timestamp() without a schema, and here the schema
// `simulated` stands before pg_catalog and has a function of that name. The tables live in that schema too, made by the same
// migrations, so that their column defaults ask the same clock.
// Invariants: time moves only by `setTime`; after `reset` the database is as empty as after its migrations, sequences too.
import { silentLogger } from "@renderplane/proto/kernel/process/logger.ts";
import type { Database } from "../store/database.ts";
import { migrate } from "../store/migrate.ts";
import { connectPostgres } from "../store/postgres.ts";
import { openTestDatabase } from "../store/testing.ts";

export type SimulatedDatabase = {
  /** Connections of one name, as one process would have; `name` is what `blocked` answers with. */
  connect(name: string): Database;
  /** For the test itself: reads what is committed. */
  readonly observer: Database;
  setTime(ms: number): Promise<void>;
  reset(): Promise<void>;
  /** Those of the named connections that wait for a lock that another one holds. */
  blocked(names: readonly string[]): Promise<ReadonlySet<string>>;
  close(): Promise<void>;
};

// A sequence is not transactional: every connection sees the new time at once, and a rollback does not turn it back.
const clock = `
  create schema simulated;
  create sequence simulated.clock_ms as bigint;
  select setval('simulated.clock_ms', 1);
  create function simulated.clock_timestamp() returns timestamptz language sql volatile
    return to_timestamp(pg_sequence_last_value('simulated.clock_ms'::regclass) / 1000.0);
  do $$ begin
    execute format('alter database %I set search_path = simulated, pg_catalog, public', current_database());
    -- Plans must not depend on how often a statement ran before, or a seed would not replay alone.
    execute format('alter database %I set plan_cache_mode = force_generic_plan', current_database());
    execute format('alter database %I set synchronous_commit = off', current_database());
    execute format('alter database %I set jit = off', current_database());
  end $$`;

export const openSimulatedDatabase = async (): Promise<SimulatedDatabase> => {
  const outer = await openTestDatabase();
  await outer.db.direct.query(clock);
  await migrate(outer.address, silentLogger());
  const opened: Database[] = [];
  const connect = (name: string, poolMax: number) => {
    const db = connectPostgres({ ...outer.address, applicationName: name, poolMax });
    opened.push(db);
    return db;
  };
  const observer = connect("observer", 1);
  const { rows } = await observer.direct.query<{ name: string }>(
    `select quote_ident(tablename) as name from pg_tables where schemaname = 'simulated' and tablename <> 'migrations' order by 1`,
  );
  const tables = rows.map((row) => row.name);
  // Its statistics and its reuse of space would make the order of rows depend on the real clock.
  for (const table of tables) await observer.direct.query(`alter table ${table} set (autovacuum_enabled = false)`);
  const { rows: sequences } = await observer.direct.query<{ name: string }>(
    `select quote_ident(c.relname) as name from pg_class c where c.relnamespace = 'simulated'::regnamespace and c.relkind = 'S'
       and c.relname <> 'clock_ms' order by 1`,
  );
  const restart = sequences.map(({ name }) => `alter sequence ${name} restart`).join("; ");
  return {
    // Two connections: a statement outside the transaction that is open must not wait for it.
    connect: (name) => connect(name, 2),
    observer,
    setTime: async (ms) => {
      await observer.direct.query("select setval('clock_ms', $1::bigint)", [ms]);
    },
    reset: async () => {
      await observer.direct.query(`truncate ${tables.join(", ")}; ${restart}`);
    },
    blocked: async (names) => {
      const { rows: waiting } = await observer.direct.query<{ name: string }>(
        `select distinct application_name as name from pg_stat_activity
         where application_name = any($1::text[]) and cardinality(pg_blocking_pids(pid)) > 0`,
        [names],
      );
      return new Set(waiting.map((row) => row.name));
    },
    close: async () => {
      for (const db of opened) await db.stop();
      await outer.close();
    },
  };
};
