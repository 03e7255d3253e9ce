// A database for a test: one embedded server a test process, a fresh migrated database a call (copied from a template).
// Only tests import this. The server dies with the process that started it, kill -9 too: a shell that waits for the end of
// a pipe removes it, so an aborted run leaves nothing behind.
import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { silentLogger } from "@renderplane/proto/kernel/process/logger.ts";
import { Client } from "pg";
import type { Database } from "./database.ts";
import { createEmbedded } from "./embedded.ts";
import { migrate } from "./migrate.ts";
import { connectPostgres, type PostgresAddress } from "./postgres.ts";

export type TestDatabase = {
  readonly db: Database;
  /** For a second connection, as another replica would have. */
  readonly address: PostgresAddress;
  close(): Promise<void>;
};

/** On the embedded server, or on the outside server that `url` names (any database of it; a new one is created there). */
export const openTestDatabase = async (options: { readonly url?: string } = {}): Promise<TestDatabase> => {
  const server = options.url ? { url: options.url } : await embeddedServer();
  const name = `test_${randomBytes(8).toString("hex")}`;
  await administer(server, `create database ${name}${options.url ? "" : ` template ${templateName}`}`);
  const address = named(server, name);
  if (options.url) await migrate(address, silentLogger());
  const db = connectPostgres({ ...address, applicationName: "test", poolMax: 10 });
  await db.start();
  return {
    db,
    address,
    close: async () => {
      await db.stop();
      await administer(server, `drop database if exists ${name} with (force)`);
    },
  };
};

export const named = (address: PostgresAddress, database: string): PostgresAddress => {
  if (!("url" in address)) return { ...address, database };
  const url = new URL(address.url);
  url.pathname = `/${database}`;
  return { url: url.href };
};

const templateName = "test_template";
/** The one value of this module: the server that all tests of this process share, started by the first. */
let shared: Promise<PostgresAddress> | undefined;

const embeddedServer = (): Promise<PostgresAddress> => {
  shared ??= startShared();
  return shared;
};

const startShared = async (): Promise<PostgresAddress> => {
  const dataDir = await mkdtemp(join(tmpdir(), "renderplane-test-"));
  removeWithThisProcess(dataDir);
  const server = createEmbedded({
    dataDir,
    log: silentLogger(),
    settings: { fsync: "off", shared_buffers: "32MB" },
    isWatched: false,
  });
  await server.start();
  await administer(server.address, `create database ${templateName}`);
  await migrate(named(server.address, templateName), silentLogger());
  return server.address;
};

/** The pipe closes when this process ends, however it ends; then the server is stopped at once and its folder removed. */
const removeWithThisProcess = (dataDir: string): void => {
  const script =
    'read _; pid=$(head -n 1 "$1/cluster/postmaster.pid" 2>/dev/null) && [ "$(readlink "/proc/$pid/cwd")" = "$1/cluster" ] && kill -QUIT "$pid"; while [ -e "/proc/$pid/cwd" ] && [ -n "$pid" ]; do sleep 0.05; done; rm -rf "$1"';
  const guard = spawn("/bin/sh", ["-c", script, "sh", dataDir], {
    detached: true,
    stdio: ["pipe", "ignore", "ignore"],
  });
  guard.unref();
  guard.stdin.on("error", () => {});
  // The pipe must not keep a test process alive.
  (guard.stdin as unknown as { unref(): void }).unref();
};

const administer = async (address: PostgresAddress, sql: string): Promise<void> => {
  const client = new Client(
    "url" in address
      ? { connectionString: address.url }
      : { host: address.socketDir, port: 5432, user: address.user, database: "postgres" },
  );
  await client.connect();
  try {
    await client.query(sql);
  } finally {
    await client.end();
  }
};
