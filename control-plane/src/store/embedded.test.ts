// The embedded server with real processes: first start, crash of either side, adoption, and every way its folder can be wrong.
// fsync stays on here: these tests are about what survives.
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { silentLogger } from "@renderplane/proto/kernel/process/logger.ts";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { createEmbedded, type Embedded } from "./embedded.ts";
import { findPackagedPostgres, linkLibraries } from "./packaged-postgres.ts";
import { connectPostgres } from "./postgres.ts";
import { findPostmaster, processesOn } from "./postmaster.ts";
import { chooseIdentity } from "./server-identity.ts";

const cleanups: (() => Promise<unknown> | unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

/** Mode 0700, as mkdtemp makes it: as root this is a folder that the server's user cannot pass through by itself. */
const closedFolder = async (): Promise<string> => {
  const path = realpathSync(await mkdtemp(join(tmpdir(), "renderplane-embedded-")));
  cleanups.push(() => rm(path, { recursive: true, force: true }));
  return path;
};
/** A data folder that has been used before: only two tests are about the first start, which costs a second of both cores. */
let used: string;
beforeAll(async () => {
  used = realpathSync(await mkdtemp(join(tmpdir(), "renderplane-used-")));
  const server = createEmbedded({ dataDir: join(used, "data"), log: silentLogger() });
  await server.start();
  await server.stop();
});
afterAll(() => rm(used, { recursive: true, force: true }));
const usedFolder = async (): Promise<string> => {
  const path = join(await closedFolder(), "data");
  execFileSync("cp", ["-a", join(used, "data"), path]);
  return path;
};

const embedded = (dataDir: string): Embedded => {
  const server = createEmbedded({ dataDir, log: silentLogger() });
  cleanups.push(() => server.stop());
  return server;
};
const query = async (server: Embedded, sql: string): Promise<Record<string, unknown>[]> => {
  const db = connectPostgres({ ...server.address, applicationName: "test", poolMax: 1 });
  try {
    return (await db.direct.query(sql)).rows;
  } finally {
    await db.stop();
  }
};
const until = async (what: string, test: () => boolean | Promise<boolean>): Promise<void> => {
  const end = performance.now() + 20_000;
  while (!(await test())) {
    if (performance.now() > end) throw new Error(`waited 20 s for: ${what}`);
    await pause(20);
  }
};
const endOf = (child: ChildProcess): Promise<number | null> =>
  new Promise((resolve) => (child.exitCode === null ? child.once("exit", resolve) : resolve(child.exitCode)));

/** A control plane of its own: starts the server on the folder, says so, and stays until it is killed. */
const otherControlPlane = async (dataDir: string): Promise<{ child: ChildProcess; output: () => string }> => {
  const code = `
    const { createEmbedded } = await import(${JSON.stringify(new URL("./embedded.ts", import.meta.url).href)});
    const { silentLogger } = await import(${JSON.stringify(import.meta.resolve("@renderplane/proto/kernel/process/logger.ts"))});
    const server = createEmbedded({ dataDir: ${JSON.stringify(dataDir)}, log: silentLogger() });
    await server.start().catch((error) => { console.log(error.name + ": " + error.message); process.exit(3); });
    console.log("started");`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", code], { stdio: ["ignore", "pipe", "inherit"] });
  let text = "";
  child.stdout?.on("data", (chunk: Buffer) => {
    text += chunk;
  });
  cleanups.push(() => child.kill("SIGKILL"));
  await until("the other control plane to answer", () => text.includes("\n"));
  return { child, output: () => text };
};

test("makes its database once, keeps it over a restart, and leaves no process behind", async () => {
  const folder = join(await closedFolder(), "data");
  const server = embedded(folder);
  await server.start();
  const [facts] = await query(
    server,
    "select current_setting('fsync') f, current_setting('data_checksums') c, current_setting('listen_addresses') l, pg_encoding_to_char(encoding) e, datlocprovider p, datlocale o from pg_database where datname = current_database()",
  );
  expect(facts).toEqual({ f: "on", c: "on", l: "", e: "UTF8", p: "b", o: "C.UTF-8" });
  await query(server, "create table kept as select 1 as one");
  const cluster = join(folder, "cluster");
  expect(processesOn(cluster).length).toBeGreaterThan(1);
  await server.stop();
  await server.stop();
  expect(processesOn(cluster)).toEqual([]);
  expect(readFileSync(join(folder, "start.log"), "utf8")).not.toContain("FATAL");

  await server.start();
  expect(await query(server, "select one from kept")).toEqual([{ one: 1 }]);
  expect(statSync(cluster).mode & 0o077).toBe(0);
  expect(readdirSync(folder).filter((name) => name.includes(".new"))).toEqual([]);
});

test("a second control plane on the folder is refused; after a kill -9 the next one adopts the running server", async () => {
  const folder = await usedFolder();
  const first = await otherControlPlane(folder);
  expect(first.output()).toBe("started\n");
  const cluster = join(folder, "cluster");
  const postmaster = findPostmaster(cluster)?.pid;
  expect(postmaster).toBeTypeOf("number");

  const server = embedded(folder);
  await expect(server.start()).rejects.toThrow(
    `The folder ${folder} is in use by process ${first.child.pid}. Stop that one first, or give this one its own data folder.`,
  );
  const second = await otherControlPlane(folder);
  expect(await endOf(second.child)).toBe(3);
  expect(second.output()).toContain(`ConfigError: The folder ${folder} is in use by process ${first.child.pid}.`);
  expect(findPostmaster(cluster)?.pid).toBe(postmaster);

  first.child.kill("SIGKILL");
  await endOf(first.child);
  await server.start();
  expect(findPostmaster(cluster)?.pid).toBe(postmaster);
  expect(await query(server, "select 1 as one")).toEqual([{ one: 1 }]);
  await server.stop();
  expect(processesOn(cluster)).toEqual([]);
});

test("a server that is killed with -9 comes back by itself with every commit", async () => {
  const folder = await usedFolder();
  const server = embedded(folder);
  await server.start();
  const db = connectPostgres({ ...server.address, applicationName: "test", poolMax: 2 });
  cleanups.push(() => db.stop());
  await db.direct.query("create table kept (n int)");
  for (let n = 0; n < 20; n++) await db.direct.query("insert into kept values ($1)", [n]);
  const before = findPostmaster(join(folder, "cluster"))?.pid ?? 0;
  process.kill(before, "SIGKILL");
  await until("a new server", async () => {
    const pid = findPostmaster(join(folder, "cluster"))?.pid;
    return (
      pid !== undefined &&
      pid !== before &&
      (await db.direct.query("select 1").then(
        () => true,
        () => false,
      ))
    );
  });
  expect((await db.direct.query("select count(*) as n from kept")).rows).toEqual([{ n: 20n }]);
});

test("a pid file that names a foreign process does not keep it from starting, and that process is left alone", async () => {
  const folder = await usedFolder();
  const server = embedded(folder);
  await server.start();
  await server.stop();
  const bystander = spawn("sleep", ["60"], { stdio: "ignore" });
  cleanups.push(() => bystander.kill("SIGKILL"));
  const pidFile = join(folder, "cluster", "postmaster.pid");
  writeFileSync(
    pidFile,
    `${bystander.pid}\n${join(folder, "cluster")}\n1700000000\n5432\n${join(folder, "socket")}\n\n  0 0\nready\n`,
  );
  chmodSync(pidFile, 0o644);
  await server.start();
  expect(await query(server, "select 1 as one")).toEqual([{ one: 1 }]);
  expect(findPostmaster(join(folder, "cluster"))?.pid).not.toBe(bystander.pid);
  expect(bystander.exitCode).toBeNull();
});

test("a first start that was cut off is made again, and a folder of another version is refused", async () => {
  const folder = join(await closedFolder(), "data");
  mkdirSync(join(folder, "cluster.new-0000", "base"), { recursive: true });
  writeFileSync(join(folder, "cluster.new-0000", "PG_VERSION"), "18\n");
  const server = embedded(folder);
  await server.start();
  expect(existsSync(join(folder, "cluster.new-0000"))).toBe(false);
  await server.stop();
  writeFileSync(join(folder, "cluster", "PG_VERSION"), "17\n");
  await expect(server.start()).rejects.toThrow(/was made by PostgreSQL 17; this program brings 18\./);
  // The refusal released the folder.
  writeFileSync(join(folder, "cluster", "PG_VERSION"), "18\n");
  await server.start();
});

test("a data folder whose path is too long for a socket works through a short private one", async () => {
  const long = join(await closedFolder(), "d".repeat(100));
  mkdirSync(long);
  const folder = join(long, "data");
  execFileSync("cp", ["-a", join(used, "data"), folder]);
  const server = embedded(folder);
  await server.start();
  expect(await query(server, "select 1 as one")).toEqual([{ one: 1 }]);
  const { address } = server;
  if (!("socketDir" in address)) throw new Error("the embedded server listens on a socket");
  expect(address.socketDir.startsWith(tmpdir())).toBe(true);
  expect(statSync(address.socketDir).mode & 0o777).toBe(0o700);
  await server.stop();
  expect(existsSync(address.socketDir)).toBe(false);

  // In a shared folder anybody can make that name first: only one of our own is used.
  mkdirSync(address.socketDir, { mode: 0o755 });
  cleanups.push(() => rm(address.socketDir, { recursive: true, force: true }));
  chmodSync(address.socketDir, 0o755);
  await expect(server.start()).rejects.toThrow(
    /must be a folder of uid \d+ with mode 0700\. Remove it and start again\./,
  );
});

test("programs without links below a closed folder run under the chosen identity, and never as root", async () => {
  const closed = await closedFolder();
  const packaged = findPackagedPostgres();
  execFileSync("cp", ["-a", packaged.native, join(closed, "native")]);
  execFileSync("find", [join(closed, "native"), "-type", "l", "-delete"]);
  const native = join(closed, "native");
  const copy = { native, initdb: join(native, "bin/initdb"), postgres: join(native, "bin/postgres") };
  const folder = join(closed, "data");
  mkdirSync(folder, { mode: 0o700 });
  linkLibraries(copy, join(folder, "lib"));
  linkLibraries(copy, join(folder, "lib"));
  const env = { PATH: process.env.PATH, LD_LIBRARY_PATH: join(folder, "lib") };
  const identity = chooseIdentity(folder, [copy.postgres, "--version"], env);
  const { command, args, ...as } = identity.wrap(copy.initdb, ["-D", join(folder, "cluster"), "-U", "x", "--no-sync"]);
  expect(execFileSync(command, args, { ...as, env, cwd: "/", encoding: "utf8" })).toContain("Success");
  expect(statSync(join(folder, "cluster")).uid).not.toBe(0);

  const missing = () => chooseIdentity(folder, [join(closed, "nothing"), "--version"], env);
  if (process.getuid?.() === 0) expect(missing).toThrow(/that user cannot reach .*data or .*nothing \(plain: /);
});
