// What every other store file relies on, proven against each server that is supported: the embedded one always, and the
// outside one that TEST_DATABASE_URL names. With RENDERPLANE_TEST_BACKENDS=all (CI) a missing URL is a failure, not a gap.
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { cp, mkdtemp, rm } from "node:fs/promises";
import { createConnection, createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { isCode } from "@renderplane/proto/kernel/errors.ts";
import { silentLogger } from "@renderplane/proto/kernel/process/logger.ts";
import { DatabaseError } from "pg";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { installationValue } from "./installation.ts";
import { migrate, migrationsFolder } from "./migrate.ts";
import { connectPostgres } from "./postgres.ts";
import { openTestDatabase, type TestDatabase } from "./testing.ts";

const url = process.env.TEST_DATABASE_URL;
const backends = [
  { backend: "embedded PostgreSQL", options: {} },
  ...(url ? [{ backend: "outside PostgreSQL", options: { url } }] : []),
];

test("every backend that must be proven is here", () => {
  if (process.env.RENDERPLANE_TEST_BACKENDS === "all") expect(url, "TEST_DATABASE_URL").toBeTruthy();
  expect(backends[0]?.backend).toBe("embedded PostgreSQL");
});

describe.each(backends)("$backend", ({ options }) => {
  let own: TestDatabase;
  beforeAll(async () => {
    own = await openTestDatabase(options);
  });
  afterAll(() => own.close());

  test("values arrive as the types that rows.ts names", async () => {
    const { rows } = await own.db.direct.query(
      `select 9007199254740993::int8 as big, array[1::int8, null] as bigs, 1.50::numeric as exact, 7::int4 as small, 0.25::float4 as part,
         '{"a": [1, "x"]}'::jsonb as document, timestamptz '2026-01-02 03:04:05.678+02' as moment, null as nothing, $1::int8 as sent`,
      [9007199254740995n],
    );
    expect(rows).toEqual([
      {
        big: 9007199254740993n,
        bigs: [1n, null],
        exact: "1.50",
        small: 7,
        part: 0.25,
        document: { a: [1, "x"] },
        moment: new Date("2026-01-02T01:04:05.678Z"),
        nothing: null,
        sent: 9007199254740995n,
      },
    ]);
  });

  test("every connection has the limits, and a name in the server's list", async () => {
    const { rows } = await own.db.direct.query<{ name: string; setting: string }>(
      "select name, setting from pg_settings where name in ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout', 'application_name') order by name",
    );
    expect(rows.map((row) => `${row.name} ${row.setting}`)).toEqual([
      "application_name test",
      "idle_in_transaction_session_timeout 10000",
      "lock_timeout 3000",
      "statement_timeout 15000",
    ]);
  });

  test("a transaction is all or nothing, also when an error inside was swallowed", async () => {
    const { db } = own;
    await db.direct.query("create table pieces (n int primary key)");
    await db.transaction(async (tx) => {
      await tx.query("insert into pieces values (1)");
      await tx.query("insert into pieces values (2)");
    });
    const refused = db.transaction(async (tx) => {
      await tx.query("insert into pieces values (3)");
      throw new RangeError("changed its mind");
    });
    await expect(refused).rejects.toThrow(new RangeError("changed its mind"));
    const doubled = await db.direct.query("insert into pieces values (1)").catch((error: unknown) => error);
    expect(doubled).toBeInstanceOf(DatabaseError);
    expect(doubled).toMatchObject({ code: "23505", constraint: "pieces_pkey" });
    const swallowed = db.transaction(async (tx) => {
      await tx.query("insert into pieces values (4)");
      await tx.query("insert into pieces values (1)").catch(() => {});
    });
    await expect(swallowed).rejects.toThrow("a statement failed and its error was swallowed; nothing was written");
    let late: (() => Promise<unknown>) | undefined;
    await db.transaction(async (tx) => {
      late = () => Promise.resolve().then(() => tx.query("insert into pieces values (5)"));
    });
    await expect(late?.()).rejects.toThrow("a transaction that has ended");
    expect((await db.direct.query("select n from pieces order by n")).rows).toEqual([{ n: 1 }, { n: 2 }]);
  });

  test("two transactions that lock each other out both succeed: the loser is tried again as a whole", async () => {
    const { db } = own;
    await db.direct.query(
      "create table pairs (name text primary key, n int); insert into pairs values ('a', 0), ('b', 0)",
    );
    let runs = 0;
    // Both hold their first row before either asks for its second.
    const both = Promise.withResolvers<void>();
    const act = (first: string, second: string) =>
      db.transaction(async (tx) => {
        runs += 1;
        await tx.query("update pairs set n = n + 1 where name = $1", [first]);
        if (runs === 2) both.resolve();
        await both.promise;
        await tx.query("update pairs set n = n + 1 where name = $1", [second]);
      });
    await Promise.all([act("a", "b"), act("b", "a")]);
    expect(runs).toBe(3);
    expect((await db.direct.query("select name, n from pairs order by name")).rows).toEqual([
      { name: "a", n: 2 },
      { name: "b", n: 2 },
    ]);
  });

  test("a transaction that keeps losing is given up after five tries, as unavailable", async () => {
    let runs = 0;
    const lost = own.db.transaction(async (tx) => {
      runs += 1;
      await tx.query("do $$ begin raise exception 'again' using errcode = 'serialization_failure'; end $$");
    });
    await expect(lost).rejects.toSatisfy((error) => isCode(error, "unavailable"));
    expect(runs).toBe(5);
  });

  test("a statement that takes too long is unavailable, and its connection goes on", async () => {
    const db = connectPostgres({ ...own.address, applicationName: "short", poolMax: 1, statementMs: 100 });
    const pid = async () => (await db.direct.query("select pg_backend_pid() as pid")).rows[0];
    const before = await pid();
    await expect(db.direct.query("select pg_sleep(5)")).rejects.toMatchObject({
      code: "unavailable",
      message: "the database cannot be used: the statement took too long",
      retryAfterMs: 1_000,
    });
    expect(await pid()).toEqual(before);
    await db.stop();
  });

  test("a connection that the server ends is replaced", async () => {
    const { db } = own;
    const ended = db.transaction(async (tx) => {
      await tx.query("select pg_terminate_backend(pg_backend_pid())");
    });
    await expect(ended).rejects.toMatchObject({ code: "unavailable" });
    expect((await db.direct.query("select 1 as one")).rows).toEqual([{ one: 1 }]);
  });

  test("migrations run once, also when two replicas start together", async () => {
    expect(await migrate(own.address, silentLogger())).toEqual([]);
    const folder = await copyOfMigrations();
    writeFileSync(join(folder.path, "0099_other.sql"), "create table others (n int)");
    await expect(migrate(own.address, silentLogger(), folder.url)).rejects.toThrow(
      "migration 0099_other.sql: names are NNNN_words.sql, numbered from 0001 without a gap",
    );
    rmSync(join(folder.path, "0099_other.sql"));
    const next = await folder.add("create table others (n int); select pg_sleep(0.2)");
    const results = await Promise.all([1, 2].map(() => migrate(own.address, silentLogger(), folder.url)));
    expect(results.flat()).toEqual([next]);
    expect((await own.db.direct.query("select count(*) as n from others")).rows).toEqual([{ n: 0n }]);

    // A migration that fails leaves nothing, not even the one before it.
    const good = await folder.add("create table good (n int)");
    const bad = await folder.add("create table bad (n int); select 1 / 0");
    await expect(migrate(own.address, silentLogger(), folder.url)).rejects.toThrow("division by zero");
    expect((await own.db.direct.query("select to_regclass('good') as good, to_regclass('bad') as bad")).rows).toEqual([
      { good: null, bad: null },
    ]);
    expect([good, bad]).not.toContain(next);

    // The program without these files is older than the database now.
    await expect(migrate(own.address, silentLogger())).rejects.toThrow(
      new RegExp(`The database is newer than this program: it has migration ${next}, the newest one here is \\d{4}_`),
    );
    writeFileSync(join(folder.path, next), "create table others (n bigint)");
    await expect(migrate(own.address, silentLogger(), folder.url)).rejects.toThrow(
      `Migration ${next} was changed after this database applied it.`,
    );
  });

  test("two replicas agree on a value of the installation", async () => {
    const make = (n: number) => own.db.transaction((tx) => installationValue(tx, "who", async () => ({ n })));
    const [one, two] = await Promise.all([make(1), make(2)]);
    expect(one).toEqual(two);
    expect(await make(3)).toEqual(one);
  });

  test("a server older than 15 is refused by name", async () => {
    const old = await openTestDatabase(options);
    const name = (await old.db.direct.query<{ name: string }>("select current_database() as name")).rows[0]?.name;
    // The database answers as an old one would.
    await old.db.direct.query(
      `create schema shadow;
       create function shadow.current_setting(name text) returns text language sql as
         $$ select case name when 'server_version' then '14.11' else '140011' end $$;
       alter database ${name} set search_path = shadow, pg_catalog`,
    );
    const db = connectPostgres({ ...old.address, applicationName: "test", poolMax: 1 });
    await expect(db.start()).rejects.toThrow(/DATABASE_URL names PostgreSQL 14\.11; Renderplane needs 15 or newer\./);
    await db.stop();
    await old.close();
  });
});

// Concurrent: two of them wait for a limit of five seconds.
describe.concurrent("a server that does not answer", () => {
  test("an address where nobody listens is unavailable, with what to check", async ({ expect }) => {
    const folder = mkdtempSync(join(tmpdir(), "renderplane-nobody-"));
    const db = connectPostgres({ socketDir: folder, user: "x", database: "x", applicationName: "test", poolMax: 1 });
    const failure = await db.transaction(async () => {}).catch((error: unknown) => error);
    expect(failure).toMatchObject({
      code: "unavailable",
      retryAfterMs: 1_000,
      next: "Check that PostgreSQL runs and that DATABASE_URL names it, then try again.",
    });
    await db.stop();
    await db.stop();
    rmSync(folder, { recursive: true });
  });

  test("one that takes the connection and says nothing is unavailable", async ({ expect }) => {
    const silent = createServer(() => {});
    const port = await listen(silent);
    const db = connectPostgres({ url: `postgres://x@127.0.0.1:${port}/x`, applicationName: "test", poolMax: 1 });
    await expect(db.direct.query("select 1")).rejects.toMatchObject({ code: "unavailable" });
    await db.stop();
    silent.close();
  });

  test("one that falls silent in the middle is unavailable, and its connection is not used again", async ({
    expect,
  }) => {
    const own = await openTestDatabase();
    const { address } = own;
    if (!("socketDir" in address)) throw new Error("the embedded server listens on a socket");
    let isSilent = false;
    const proxy = createServer((near) => {
      const far = createConnection(join(address.socketDir, ".s.PGSQL.5432"));
      near.on("data", (bytes) => isSilent || far.write(bytes));
      far.on("data", (bytes) => isSilent || near.write(bytes));
      for (const [one, other] of [
        [near, far],
        [far, near],
      ] as const)
        one.on("close", () => other.destroy()).on("error", () => {});
    });
    const port = await listen(proxy);
    const db = connectPostgres({
      url: `postgres://${address.user}@127.0.0.1:${port}/${address.database}`,
      applicationName: "test",
      poolMax: 1,
      statementMs: 100,
    });
    await db.start();
    isSilent = true;
    await expect(db.direct.query("select 1")).rejects.toMatchObject({ code: "unavailable" });
    isSilent = false;
    expect((await db.direct.query("select 1 as one")).rows).toEqual([{ one: 1 }]);
    await db.stop();
    proxy.close();
    await own.close();
  });
});

const listen = async (server: Server): Promise<number> => {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("no port");
  return address.port;
};

const copyOfMigrations = async () => {
  const path = await mkdtemp(join(tmpdir(), "renderplane-migrations-"));
  await cp(migrationsFolder, path, { recursive: true });
  onTestFinished(() => rm(path, { recursive: true, force: true }));
  return {
    path,
    url: pathToFileURL(`${path}/`),
    add: async (sql: string): Promise<string> => {
      const name = `${String(readdirSync(path).length + 1).padStart(4, "0")}_more.sql`;
      writeFileSync(join(path, name), sql);
      return name;
    },
  };
};
