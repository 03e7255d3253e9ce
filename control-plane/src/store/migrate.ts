// Brings a database to this program's schema: migrations/*.sql in order, forward only, all pending ones in one transaction,
// under a lock that a second replica waits for. Refuses a database that a newer program has changed, and a file that was
// changed after it landed.
// node-pg-migrate was tried on plain .sql files: it starts on a newer database and on a changed file without a word, and
// both of these refusals are what this is for. The rest of what is needed of it is this page.
import { createHash } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { ConfigError } from "@renderplane/proto/kernel/process/environment.ts";
import type { Logger } from "@renderplane/proto/kernel/process/logger.ts";
import type { Tx } from "./database.ts";
import { connectPostgres, type PostgresAddress } from "./postgres.ts";

export const migrationsFolder = new URL("./migrations/", import.meta.url);
const fileName = /^(\d{4})_[a-z0-9_]+\.sql$/;
/** Any constant that nobody else uses on this database: "rplane" in ASCII. */
const lockKey = 0x72706c616e65;
/** A migration may rewrite a table; waiting for another replica that does so counts too. */
const migrationMs = 10 * 60_000;

type Migration = { readonly name: string; readonly sql: string; readonly checksum: string };

/** Returns the names that were applied now. Takes its own connection: the limits of ordinary statements do not fit here. */
export const migrate = async (address: PostgresAddress, log: Logger, folder = migrationsFolder): Promise<string[]> => {
  const migrations = await readMigrations(folder);
  const db = connectPostgres({
    ...address,
    applicationName: "renderplane migrate",
    poolMax: 1,
    statementMs: migrationMs,
    log,
  });
  try {
    await db.start();
    const applied = await db.transaction((tx) => applyPending(tx, migrations));
    for (const name of applied) log.info({ migration: name }, "migration applied");
    return applied;
  } finally {
    await db.stop();
  }
};

const applyPending = async (tx: Tx, migrations: readonly Migration[]): Promise<string[]> => {
  await tx.query(`set local lock_timeout = ${migrationMs}`);
  await tx.query("select pg_advisory_xact_lock($1)", [lockKey]);
  await tx.query(
    "create table if not exists migrations (name text primary key, checksum text not null, applied_at timestamptz not null default clock_timestamp())",
  );
  const { rows } = await tx.query<{ name: string; checksum: string }>(
    "select name, checksum from migrations order by name",
  );
  refuseSurprises(rows, migrations);
  const pending = migrations.slice(rows.length);
  for (const { name, sql, checksum } of pending) {
    await tx.query(sql);
    await tx.query("insert into migrations (name, checksum) values ($1, $2)", [name, checksum]);
  }
  return pending.map((m) => m.name);
};

/** What the database has seen must be a prefix of what this program knows. */
const refuseSurprises = (seen: readonly { name: string; checksum: string }[], known: readonly Migration[]): void => {
  for (const [index, row] of seen.entries()) {
    const own = known[index];
    if (own === undefined)
      throw new ConfigError(
        `The database is newer than this program: it has migration ${row.name}, the newest one here is ${known.at(-1)?.name ?? "(none)"}. Start the newer program, or restore the database's backup from before its upgrade.`,
      );
    if (own.name !== row.name)
      throw new ConfigError(
        `The database has migration ${row.name} where this program has ${own.name}: they belong to different versions. Start the program that this database belongs to.`,
      );
    if (own.checksum !== row.checksum)
      throw new ConfigError(
        `Migration ${own.name} was changed after this database applied it. Restore the file, and write the change as a new migration.`,
      );
  }
};

const readMigrations = async (folder: URL): Promise<Migration[]> => {
  const names = (await readdir(folder)).filter((name) => name.endsWith(".sql")).sort();
  return Promise.all(
    names.map(async (name, index) => {
      if (Number(fileName.exec(name)?.[1]) !== index + 1)
        throw new Error(`migration ${name}: names are NNNN_words.sql, numbered from 0001 without a gap`);
      const sql = await readFile(new URL(name, folder), "utf8");
      return { name, sql, checksum: createHash("sha256").update(sql).digest("hex") };
    }),
  );
};
