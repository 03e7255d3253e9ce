// The acts on a cluster's folder: make it once, start a server on it, ask whether one answers, create the database.
// When each is due is embedded.ts's to decide. Invariant: a folder named `cluster` is complete; a first start that was cut
// off leaves only a `cluster.new-…`, which the next one throws away.
import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { closeSync, existsSync, openSync, readdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { ConfigError } from "@renderplane/proto/kernel/process/environment.ts";
import { Client } from "pg";
import { packagedMajor } from "./packaged-postgres.ts";
import type { ServerIdentity } from "./server-identity.ts";

export const user = "renderplane";
export const database = "renderplane";
/** Recovery after a crash replays at most max_wal_size (1 GB); a slow disk needs a minute for it. */
export const startMs = 120_000;

/** Once. Works beside the final name, so a first start that was cut off leaves nothing that looks like a cluster. */
export const createCluster = async (
  cluster: string,
  initdb: string,
  identity: ServerIdentity,
  env: NodeJS.ProcessEnv,
): Promise<void> => {
  if (existsSync(cluster)) {
    const found = readFileSync(join(cluster, "PG_VERSION"), "utf8").trim();
    if (found !== packagedMajor)
      throw new ConfigError(
        `${cluster} was made by PostgreSQL ${found}; this program brings ${packagedMajor}. Dump it with the older program and load it here, or set DATABASE_URL.`,
      );
    return;
  }
  removeLeftovers(cluster);
  // A name of its own: the initdb of a start that was killed may still be writing into the folder that it had.
  const fresh = `${cluster}.new-${randomBytes(6).toString("hex")}`;
  const collation = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"];
  const args = ["-D", fresh, "-U", user, "--auth=trust", "--data-checksums", "--no-instructions", ...collation];
  const { command, args: wrapped, ...as } = identity.wrap(initdb, args);
  const child = spawn(command, wrapped, { ...as, env, cwd: "/", stdio: ["ignore", "pipe", "pipe"] });
  const output: Buffer[] = [];
  child.stdout.on("data", (chunk: Buffer) => output.push(chunk));
  child.stderr.on("data", (chunk: Buffer) => output.push(chunk));
  const code = await new Promise<number | null>((resolve, reject) => child.on("error", reject).on("close", resolve));
  if (code !== 0)
    throw new Error(`initdb failed in ${fresh} (exit ${code}): ${lastLines(Buffer.concat(output).toString())}`);
  renameSync(fresh, cluster);
};

const removeLeftovers = (cluster: string): void => {
  for (const name of readdirSync(dirname(cluster))) {
    if (name.startsWith(`${basename(cluster)}.new-`))
      rmSync(join(dirname(cluster), name), { recursive: true, force: true, maxRetries: 3 });
  }
};

export const startServer = async (
  program: string,
  args: readonly string[],
  identity: ServerIdentity,
  env: NodeJS.ProcessEnv,
  startLog: string,
  socketDir: string,
): Promise<number> => {
  const out = openSync(startLog, "w", 0o600);
  const { command, args: wrapped, ...as } = identity.wrap(program, args);
  // Its own session: Ctrl-C in the terminal must reach this process only, which stops the server last.
  const child = spawn(command, wrapped, { ...as, env, cwd: "/", detached: true, stdio: ["ignore", out, out] });
  closeSync(out);
  child.unref();
  const ended = { why: "" };
  child.on("error", (error) => {
    ended.why = error.message;
  });
  child.on("exit", (code, signal) => {
    ended.why = `exit ${code ?? signal}`;
  });
  if (await answersWhile(socketDir, () => ended.why === "")) return child.pid ?? 0;
  const why = ended.why || `not ready in ${startMs / 1000} s`;
  child.kill("SIGQUIT");
  throw new Error(`PostgreSQL did not start (${why}): ${lastLines(readFileSync(startLog, "utf8"))}`);
};

/** Waits for the first answer while the server lives, startMs at most. */
export const answersWhile = async (socketDir: string, isAlive: () => boolean): Promise<boolean> => {
  const end = performance.now() + startMs;
  while (performance.now() < end && isAlive()) {
    if (await answers(socketDir)) return true;
    await pause(10);
  }
  return false;
};

const answers = async (socketDir: string): Promise<boolean> => {
  const client = new Client({
    host: socketDir,
    port: 5432,
    user,
    database: "postgres",
    connectionTimeoutMillis: 5_000,
  });
  client.on("error", () => {});
  try {
    await client.connect();
    await client.query({ text: "select 1", query_timeout: 5_000 } as { text: string });
    return true;
  } catch {
    return false;
  } finally {
    await client.end().catch(() => {});
  }
};

export const createDatabase = async (socketDir: string): Promise<void> => {
  const client = new Client({ host: socketDir, port: 5432, user, database: "postgres" });
  client.on("error", () => {});
  await client.connect();
  try {
    const { rowCount } = await client.query("select 1 from pg_database where datname = $1", [database]);
    if (rowCount === 0) await client.query(`create database ${database}`);
  } finally {
    await client.end();
  }
};

const lastLines = (text: string): string => text.trim().split("\n").slice(-6).join(" | ");
