// Faults of the servers that a fleet stands on, PostgreSQL and Redis: stopped, crashed, hung, restored, and full of errors. F19-F24, F31.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { cp, rm } from "node:fs/promises";
import { join } from "node:path";
import { outsideFolder } from "../../flow/outside.ts";
import type { Bed } from "../bed.ts";
import { beats, type FaultCase, slackMs } from "../case.ts";
import { until } from "../until.ts";
import { pastSince } from "../wait.ts";

const outside = { database: "outside", redis: true } as const;
const attemptsOf = async (bed: Bed, job: string) =>
  (await bed.attempts(job)).filter((each) => each.stage === "work").map((each) => each.id);
const isReady = (bed: Bed) => async () => (await fetch(`${bed.fleet.url}/readyz`)).status === 200;
const begun = async (bed: Bed, pipeline: string) => {
  await bed.fleet.startControlPlane();
  await bed.startAgent("alpha");
  return bed.begin(pipeline);
};

/** Redis is a bell: whatever happens to it, only latency may change. */
const redisCase = (
  fault: string,
  injected: string,
  away: (bed: Bed) => Promise<void>,
  back: (bed: Bed) => Promise<void>,
): FaultCase => ({
  faults: [fault],
  injected,
  fleet: outside,
  within: { recoverMs: 5_000 + beats(4) + slackMs },
  run: async (bed) => {
    const { job, attempt } = await begun(bed, "drill-6");
    await away(bed);
    let worstMs = 0;
    const began = performance.now();
    for (let n = 0; n < 5; n++) {
      const asked = performance.now();
      await bed.submit("drill-0");
      worstMs = Math.max(worstMs, performance.now() - asked);
    }
    await until(
      "five jobs without bells",
      async () =>
        (await bed.fleet.sql(`select id from jobs where pipeline = 'drill-0' and ended_at is not null`)).length === 5,
      30_000,
      50,
    );
    const recoverMs = performance.now() - began;
    assert.ok(worstMs < 1_000 + slackMs, `a submission took ${Math.round(worstMs)} ms`);
    await back(bed);
    await bed.submit("drill-0");
    await bed.settled();
    assert.deepEqual(await attemptsOf(bed, job), [attempt.id]);
    return { detectMs: null, recoverMs, note: `slowest submission meanwhile ${Math.round(worstMs)} ms` };
  },
});

const restarts = (signal: NodeJS.Signals, word: string): FaultCase => ({
  faults: ["F21"],
  injected: `PostgreSQL restarted (${word})`,
  fleet: outside,
  within: { recoverMs: 5_000 + slackMs },
  run: async (bed) => {
    const { job, attempt } = await begun(bed, "drill-6");
    await bed.fleet.postgres.stop(signal);
    await bed.fleet.postgres.start();
    const recoverMs = await until("readiness", isReady(bed), 30_000);
    await bed.submit("drill-0");
    await bed.settled();
    assert.deepEqual(await attemptsOf(bed, job), [attempt.id], "a lease was lost to the restart");
    return { detectMs: null, recoverMs, note: "requeues 0 (mended: from the start of the server)" };
  },
});

export const outsideCases: readonly FaultCase[] = [
  redisCase(
    "F19",
    "Redis killed (-9), started again later",
    (bed) => bed.fleet.redis.stop("SIGKILL"),
    (bed) => bed.fleet.redis.start(),
  ),
  redisCase(
    "F20",
    "Redis hung (SIGSTOP), thawed later",
    (bed) => bed.fleet.redis.freeze(),
    (bed) => bed.fleet.redis.thaw(),
  ),
  restarts("SIGINT", "fast"),
  restarts("SIGQUIT", "immediate"),
  {
    faults: ["F22"],
    injected: "PostgreSQL away for three lost windows; a stage works, another one ends meanwhile",
    fleet: outside,
    within: { recoverMs: 10_000 + slackMs },
    run: async (bed) => {
      const { job, attempt } = await begun(bed, "drill-12");
      const ends = await bed.begin("drill-3");
      await bed.fleet.postgres.stop("SIGINT");
      await until("it is known", async () => !(await isReady(bed)()), 15_000);
      const refused = await bed.fleet.api("POST", "/api/v1/jobs", { pipeline: "drill-0", request: {} });
      assert.equal(refused.status, 503);
      assert.ok(refused.headers.get("retry-after") !== null, "503 without Retry-After");
      assert.equal((await fetch(`${bed.fleet.url}/healthz`)).status, 200);
      await until("three lost windows", pastSince(beats(36)), 60_000);
      await bed.fleet.postgres.start();
      const recoverMs = await until("readiness", isReady(bed), 30_000);
      await bed.settled();
      assert.deepEqual(await attemptsOf(bed, job), [attempt.id]);
      assert.deepEqual(await attemptsOf(bed, ends.job), [ends.attempt.id]);
      return { detectMs: null, recoverMs, note: "503 with Retry-After meanwhile; requeues 0, results lost 0" };
    },
  },
  {
    faults: ["F22"],
    injected: "PostgreSQL hung (SIGSTOP) for two lost windows",
    fleet: outside,
    run: async (bed) => {
      const { job, attempt } = await begun(bed, "drill-12");
      await bed.fleet.postgres.freeze();
      await until("two lost windows", pastSince(beats(24)), 60_000);
      await bed.fleet.postgres.thaw();
      const recoverMs = await until("readiness", isReady(bed), 60_000);
      await bed.submit("drill-0");
      await bed.settled();
      assert.deepEqual(await attemptsOf(bed, job), [attempt.id]);
      return { detectMs: null, recoverMs, note: "requeues 0" };
    },
  },
  {
    faults: ["F23"],
    injected: "failover to a copy that lacks the newest transactions: PostgreSQL comes back with older data",
    fleet: outside,
    run: async (bed) => {
      const { job, attempt } = await begun(bed, "drill-12");
      const folder = outsideFolder(bed.dir, "postgres");
      await bed.fleet.postgres.stop("SIGINT");
      await cp(join(folder, "data"), join(folder, "copy"), { recursive: true, preserveTimestamps: true });
      await chownLike(join(folder, "data"), join(folder, "copy"));
      await bed.fleet.postgres.start();
      await until("readiness", isReady(bed), 30_000);
      await until("the host is back", () => bed.isOnline("alpha"), 30_000);
      // These are accepted and placed, and then they never were.
      const lost = await bed.fleet.submit({ pipeline: "drill-6", request: {} });
      await until(
        "the work that will be forgotten runs",
        async () => (await bed.processes("alpha")).length === 2,
        30_000,
      );
      const [before] = await bed.fleet.sql<{ fence: bigint }>(`select max(fence) as fence from attempts`);
      await bed.fleet.postgres.stop("SIGINT");
      await rm(join(folder, "data"), { recursive: true });
      await cp(join(folder, "copy"), join(folder, "data"), { recursive: true, preserveTimestamps: true });
      await chownLike(join(folder, "copy"), join(folder, "data"));
      const began = performance.now();
      await bed.fleet.postgres.start();
      await until("the host is back", () => bed.isOnline("alpha"), 30_000);
      await until("what nobody knows was abandoned", async () => (await bed.processes("alpha")).length <= 1, 30_000);
      const recoverMs = performance.now() - began;
      await bed.submit("drill-0");
      await bed.settled();
      assert.deepEqual(await attemptsOf(bed, job), [attempt.id]);
      const [after] = await bed.fleet.sql<{ fence: bigint }>(`select max(fence) as fence from attempts`);
      assert.ok(
        (after?.fence ?? 0n) > (before?.fence ?? 0n),
        `fences were given twice: ${after?.fence} after the failover, ${before?.fence} before it`,
      );
      return {
        detectMs: null,
        recoverMs,
        note: `job ${lost.slice(-4)} is gone with the transactions; fences go on above it`,
      };
    },
  },
  {
    faults: ["F24"],
    injected: "every twentieth change of a stage ends in a deadlock or a serialization error",
    fleet: { database: "outside" },
    run: async (bed) => {
      await bed.fleet.startControlPlane();
      await bed.startAgent("alpha");
      await bed.fleet.sql(`create function unlucky() returns trigger language plpgsql as $$ begin
        if random() < 0.05 then raise exception 'unlucky' using errcode = case when random() < 0.5 then '40P01' else '40001' end; end if;
        return new; end $$`);
      await bed.fleet.sql(`create trigger unlucky before update on stages for each row execute function unlucky()`);
      const began = performance.now();
      await bed.submit("drill-0", 30);
      await bed.settled();
      const recoverMs = performance.now() - began;
      await bed.fleet.sql(`drop trigger unlucky on stages`);
      return { detectMs: null, recoverMs, note: "errors that a client saw: 0" };
    },
  },
  {
    faults: ["F31"],
    injected: "the database's clock jumps two minutes ahead (all times of live rows set back by as much)",
    fleet: { database: "outside" },
    run: async (bed) => {
      const { job } = await begun(bed, "drill-6");
      const began = performance.now();
      await bed.fleet.sql(
        `update attempts set lease_until = lease_until - interval '2 minutes' where state <> 'ended'`,
      );
      await bed.fleet.sql(`update hosts set last_seen_at = last_seen_at - interval '2 minutes'`);
      await bed.settled();
      const works = (await bed.attempts(job)).filter((each) => each.stage === "work");
      assert.ok(works.length <= 2, `${works.length} attempts`);
      assert.equal(works.filter((each) => each.outcome === "succeeded").length, 1);
      return { detectMs: null, recoverMs: performance.now() - began, note: `attempts lost early ${works.length - 1}` };
    },
  },
];

/** A copy made by root belongs to root; PostgreSQL wants its own. */
const chownLike = async (like: string, folder: string): Promise<void> => {
  await new Promise<void>((resolve, reject) => {
    execFile("chown", ["-R", `--reference=${like}`, folder], (error) => (error ? reject(error) : resolve()));
  });
};
