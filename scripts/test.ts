// The command behind scripts/test: starts the outside servers that the conformance suites need, runs the checks, then every
// test, and ends with one plain line. What is started here is stopped here by its pid, also on Ctrl-C.
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { startPostgres } from "./backends/postgres.ts";
import { startRedis } from "./backends/redis.ts";
import type { ServerProcess } from "./backends/server-process.ts";
import { runChecks } from "./checks/all.ts";
import { repositoryRoot } from "./checks/repository.ts";
import { type Report, type Tally, tallyOf } from "./checks/tally.ts";

/** Far above the fifteen minutes that all tests should need together. */
const testLimitMs = 60 * 60_000;
/** Between the report and the end of the runner; one that does not end waits for a process that a test left behind. */
const goMs = 60_000;

const runTests = async (root: string, report: string, env: NodeJS.ProcessEnv, signal: AbortSignal): Promise<Tally> => {
  const args = [
    "run",
    "--reporter=default",
    "--reporter=json",
    `--outputFile.json=${report}`,
    ...process.argv.slice(2),
  ];
  const child = spawn(process.execPath, [join(root, "node_modules/vitest/vitest.mjs"), ...args], {
    cwd: root,
    env,
    // stdout belongs to the closing line.
    stdio: ["ignore", 2, 2],
    // A group of its own, so that what a broken test left behind can be ended with it.
    detached: true,
  });
  signal.addEventListener("abort", () => child.kill("SIGINT"), { once: true });
  let isOver = false;
  const ended = new Promise<number>((resolve) => {
    child.once("error", () => resolve(1));
    child.once("exit", (exit) => resolve(exit ?? 1));
  }).finally(() => {
    isOver = true;
  });
  const giveUpAt = performance.now() + testLimitMs;
  let reportedAt: number | undefined;
  while (!isOver) {
    await Promise.race([ended, pause(1000)]);
    if (reportedAt === undefined && existsSync(report)) reportedAt = performance.now();
    const isLate = performance.now() > giveUpAt || performance.now() > (reportedAt ?? Number.POSITIVE_INFINITY) + goMs;
    if (isOver || !isLate || child.pid === undefined) continue;
    console.error(
      reportedAt === undefined ? "the tests take too long and are ended" : "a test left a process behind; it is ended",
    );
    process.kill(-child.pid, "SIGKILL");
    break;
  }
  const code = await ended;
  const text = await readFile(report, "utf8").catch(() => undefined);
  if (text === undefined) return { passed: 0, failed: 1 };
  const tally = tallyOf(JSON.parse(text) as Report);
  return tally.failed === 0 && code !== 0 ? { ...tally, failed: 1 } : tally;
};

const main = async (): Promise<number> => {
  const root = repositoryRoot();
  const abort = new AbortController();
  const started: ServerProcess[] = [];
  const folder = await mkdtemp(join(tmpdir(), "renderplane-test-"));
  let interrupted: NodeJS.Signals | undefined;
  for (const signal of ["SIGINT", "SIGTERM"] as const)
    process.once(signal, () => {
      interrupted = signal;
      abort.abort();
    });
  try {
    const redisFolder = await mkdtemp(join(tmpdir(), "renderplane-redis-"));
    const postgresFolder = await mkdtemp(join(tmpdir(), "renderplane-postgres-"));
    const folders = [redisFolder, postgresFolder];
    try {
      const redis = await startRedis(redisFolder);
      started.push(redis);
      const postgres = await startPostgres(postgresFolder);
      started.push(postgres);
      console.error(`outside servers: PostgreSQL ${postgres.version} at ${postgres.url}, Redis at ${redis.url}`);
      const bin = join(root, "node_modules/.bin");
      const env = {
        ...process.env,
        PATH: `${bin}:${process.env.PATH ?? ""}`,
        TEST_DATABASE_URL: postgres.url,
        TEST_REDIS_URL: redis.url,
        RENDERPLANE_TEST_BACKENDS: "all",
      };
      const checked = await runChecks(root);
      const tested = abort.signal.aborted
        ? { passed: 0, failed: 1 }
        : await runTests(root, join(folder, "report.json"), env, abort.signal);
      const passed = checked.passed + tested.passed;
      const failed = checked.failed + tested.failed;
      console.log(`${passed} passed, ${failed} failed`);
      if (interrupted) return interrupted === "SIGINT" ? 130 : 143;
      return failed > 0 ? 1 : 0;
    } finally {
      for (const server of started.reverse()) await server.stop();
      for (const name of folders) await rm(name, { recursive: true, force: true });
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
};

process.exitCode = await main();
