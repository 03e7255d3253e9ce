// The driver: one pool of connections to PostgreSQL 15 or newer, the embedded server and an outside one alike.
// It decides how values are parsed, which timeouts every connection has, which failures are tried again and which become
// `unavailable`. It knows no statement and no table. Invariant: a connection that broke never returns to the pool.
import { createHash } from "node:crypto";
import { setTimeout as pause } from "node:timers/promises";
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { ConfigError } from "@renderplane/proto/kernel/process/environment.ts";
import { type Logger, silentLogger } from "@renderplane/proto/kernel/process/logger.ts";
import { DatabaseError, Pool, type PoolClient, types } from "pg";
import type { Database, Rows, Tx } from "./database.ts";

/** Where a server is: a URL, or the folder of its unix socket (trusted, no password). */
export type PostgresAddress =
  | { readonly url: string }
  | { readonly socketDir: string; readonly user: string; readonly database: string };

/** The oldest version that the conformance suite runs against. */
export const oldestServerVersion = 150_000;
/** A transaction whose owner stopped (SIGSTOP, lost packets) holds row locks; the server ends it after this. */
const idleInTransactionMs = 10_000;
/** No statement of the product needs a second; one that runs this long is a fault and must not hold locks. */
export const defaultStatementMs = 15_000;
/** Longer than any honest wait for a row, shorter than a heartbeat. */
const lockMs = 3_000;
/** The client's own limit lies above the server's: it only fires when the server or the network is gone. */
const silentServerMs = 5_000;
const connectMs = 5_000;
const maxTries = 5;

export const connectPostgres = (
  options: PostgresAddress & {
    readonly applicationName: string;
    /** Connections at most; a caller above it waits for one up to 5 s, then gets `unavailable`. */
    readonly poolMax: number;
    readonly statementMs?: number;
    readonly log?: Logger;
  },
): Database => {
  const log = options.log ?? silentLogger();
  const statementMs = options.statementMs ?? defaultStatementMs;
  const pool = new Pool({
    ...where(options),
    max: options.poolMax,
    application_name: options.applicationName,
    connectionTimeoutMillis: connectMs,
    statement_timeout: statementMs,
    lock_timeout: lockMs,
    idle_in_transaction_session_timeout: idleInTransactionMs,
    query_timeout: statementMs + silentServerMs,
    keepAlive: true,
    keepAliveInitialDelayMillis: 10_000,
    types: { getTypeParser },
  });
  // An idle connection that breaks is replaced at its next use; without a listener it would end the process.
  pool.on("error", (error) => log.warn({ err: error }, "an idle database connection broke"));

  const withClient = async <T>(act: (client: PoolClient) => Promise<T>): Promise<T> => {
    let client: PoolClient;
    try {
      client = await pool.connect();
    } catch (error) {
      throw translate(error);
    }
    let isBroken = false;
    // A connection that breaks between two queries reports it here, and the next query on it fails.
    const broke = () => {
      isBroken = true;
    };
    client.on("error", broke);
    try {
      return await act(client);
    } catch (error) {
      isBroken ||= isConnectionLost(error);
      throw error;
    } finally {
      client.off("error", broke);
      client.release(isBroken);
    }
  };

  const once = <T>(act: (tx: Tx) => Promise<T>): Promise<T> =>
    withClient(async (client) => {
      let isOpen = true;
      const tx: Tx = {
        query: (sql, params) => {
          if (!isOpen) throw new Error("a statement was sent on a transaction that has ended: an await is missing");
          return send(client, sql, params);
        },
      };
      await send(client, "begin");
      try {
        const value = await act(tx);
        isOpen = false;
        // PostgreSQL answers the commit of a failed transaction with ROLLBACK and no error.
        const { command } = await commit(client);
        if (command !== "COMMIT")
          throw new Error("a statement failed and its error was swallowed; nothing was written");
        return value;
      } catch (error) {
        isOpen = false;
        if (!isConnectionLost(error)) await send(client, "rollback");
        throw error;
      }
    });

  let stopping: Promise<void> | undefined;
  return {
    name: "database",
    start: async () => {
      const { rows } = await withClient((client) =>
        send<{ server_version: string; number: number }>(
          client,
          "select current_setting('server_version') as server_version, current_setting('server_version_num')::int as number",
        ),
      );
      const found = rows[0];
      if (found === undefined || found.number < oldestServerVersion)
        throw new ConfigError(
          `DATABASE_URL names PostgreSQL ${found?.server_version}; Renderplane needs 15 or newer. Upgrade the server, or leave DATABASE_URL out to use the packaged one.`,
        );
    },
    stop: () => {
      stopping ??= pool.end();
      return stopping;
    },
    direct: { query: (sql, params) => withClient((client) => send(client, sql, params)) },
    transaction: async (act) => {
      for (let tries = 1; ; tries++) {
        try {
          return await once(act);
        } catch (error) {
          if (!isRetryable(error)) throw error;
          if (tries === maxTries)
            throw new RenderplaneError(
              "unavailable",
              `the database ended this change ${maxTries} times for another one`,
              {
                next: "Try again.",
                retryAfterMs: 1_000,
                cause: error,
              },
            );
        }
        // Two transactions that met once must not meet again at the same moment.
        await pause(Math.random() * 10 * 2 ** tries);
      }
    },
  };
};

/**
 * Every statement with parameters is prepared once a connection: parsing and planning were half of its time (0.6 to 0.35 ms).
 * Texts are constants of store/, so the names are few; the digest is short because the server cuts names at 63 bytes.
 */
const nameOf = (sql: string): string => createHash("sha1").update(sql).digest("base64url");

const where = (address: PostgresAddress) =>
  "url" in address
    ? { connectionString: address.url }
    : { host: address.socketDir, port: 5432, user: address.user, database: address.database };

const send = async <R>(client: PoolClient, sql: string, params?: readonly unknown[]): Promise<Rows<R>> => {
  try {
    const result = params
      ? await client.query({ name: nameOf(sql), text: sql, values: [...params] })
      : await client.query(sql);
    return { rows: result.rows as R[], rowCount: result.rowCount ?? 0 };
  } catch (error) {
    throw translate(error);
  }
};

const commit = async (client: PoolClient): Promise<{ command: string }> => {
  try {
    return await client.query("commit");
  } catch (error) {
    throw translate(error);
  }
};

const isRetryable = (error: unknown): boolean =>
  error instanceof DatabaseError && (error.code === "40001" || error.code === "40P01");

/** SQLSTATEs that say "not now" or "not this server", and not "your statement is wrong". Those of class 08 too. */
const notNow: ReadonlyMap<string, string> = new Map([
  ["25006", "it accepts no writes (a standby?)"],
  ["25P03", "it ended a transaction that was idle too long"],
  ["28000", "it refused the user"],
  ["28P01", "it refused the password"],
  ["3D000", "it has no such database"],
  ["53100", "its disk is full"],
  ["53200", "it is out of memory"],
  ["53300", "it has too many connections"],
  ["55P03", "another change held the row too long"],
  ["57014", "the statement took too long"],
  ["57P01", "it is shutting down"],
  ["57P02", "it crashed"],
  ["57P03", "it is starting"],
  ["57P05", "it closed an idle connection"],
]);
/** After these the statement failed but the connection lives. */
const keepsConnection: ReadonlySet<string> = new Set(["25006", "53100", "53200", "55P03", "57014"]);

/**
 * Anything that is no answer of the server and no fault of the caller's arguments is a connection that failed:
 * sockets, name look-up, TLS, the pool's and the driver's own time limits (they carry no code).
 */
const translate = (error: unknown): unknown => {
  if (error instanceof RenderplaneError || error instanceof TypeError || error instanceof RangeError) return error;
  if (!(error instanceof Error)) return error;
  const code = error instanceof DatabaseError ? (error.code ?? "") : "";
  const reason = code.startsWith("08") ? "the connection failed" : notNow.get(code);
  if (error instanceof DatabaseError && reason === undefined) return error;
  return new RenderplaneError("unavailable", `the database cannot be used: ${reason ?? said(error)}`, {
    next: "Check that PostgreSQL runs and that DATABASE_URL names it, then try again.",
    retryAfterMs: 1_000,
    cause: error,
  });
};

/** A refused connection to a name with two addresses is an AggregateError with an empty message. */
const said = (error: Error): string =>
  error.message ||
  (error instanceof AggregateError ? error.errors.map((e) => String(e.message)).join("; ") : error.name);

const isConnectionLost = (error: unknown): boolean =>
  error instanceof RenderplaneError &&
  error.code === "unavailable" &&
  error.cause !== undefined &&
  !(error.cause instanceof DatabaseError && keepsConnection.has(error.cause.code ?? ""));

const int8 = 20;
const int8Array = 1016;
const parseArray = types.getTypeParser(int8Array as number) as (text: string) => (string | null)[];
const getTypeParser = (oid: number, format?: "text" | "binary"): ((text: string) => unknown) => {
  if (format !== "binary") {
    if (oid === int8) return BigInt;
    if (oid === int8Array) return (text) => parseArray(text).map((item) => (item === null ? null : BigInt(item)));
  }
  return types.getTypeParser(oid, format as "text");
};
