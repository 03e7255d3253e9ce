// PostgreSQL or Redis away while real work runs: the API says so or does not notice, agents go on, and everything settles.
import { fileURLToPath } from "node:url";
import { Client } from "pg";
import { afterEach, expect, test } from "vitest";
import { type Fleet, isOver, openFleet, stageOf } from "./fleet.ts";

let fleet: Fleet;
afterEach(() => fleet.stop(), 120_000);
const pipelines = { RENDERPLANE_PIPELINES_DIR: fileURLToPath(new URL("pipelines", import.meta.url)) };
const pass = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

test.each([
  ["in order", "SIGINT"],
  ["at once", "SIGQUIT"],
] as const)(
  "PostgreSQL stops %s for longer than a lease and its grace: 503 meanwhile, no lease lost by it",
  {
    timeout: 180_000,
  },
  async (_how, signal) => {
    const heartbeatSeconds = 0.3;
    fleet = await openFleet({ database: "outside", heartbeatSeconds, env: pipelines });
    await fleet.startControlPlane();
    await fleet.startAgent("alpha");
    const id = await fleet.submit({ pipeline: "waits", request: {} });
    const waiting = await fleet.submit({ pipeline: "passes", request: {} });
    await fleet.until(id, "the stage to run", (job) => stageOf(job, "wait").progress > 0);

    const before = await fleet.sql("select id, fence from attempts where started_at is not null and job_id = $1", [id]);
    expect(before).toHaveLength(1);
    await fleet.postgres.stop(signal);
    const began = performance.now();
    for (const [method, path, body] of [
      ["POST", "/api/v1/jobs", { pipeline: "passes", request: {} }],
      ["GET", `/api/v1/jobs/${id}`, undefined],
      ["GET", "/readyz", undefined],
    ] as const) {
      const answer = await fleet.api(method, path, body);
      expect([path, answer.status, answer.body.code]).toEqual([path, 503, "unavailable"]);
      expect(Number(answer.headers.get("retry-after"))).toBeGreaterThan(0);
    }
    expect((await fleet.api("GET", "/healthz")).status).toBe(200);
    // The time itself is what is tested: a lease and its grace are twelve beats.
    await pass(heartbeatSeconds * 1000 * 14 - (performance.now() - began));
    expect(fleet.isAlive("control-plane")).toBe(true);
    await fleet.postgres.start();

    for (const each of [id, waiting]) {
      const job = await fleet.until(each, "the end", isOver);
      expect(job.state, JSON.stringify(job.failure)).toBe("completed");
    }
    expect(
      await fleet.sql("select id, fence from attempts where started_at is not null and job_id = $1", [id]),
    ).toEqual(before);
    expect((await fleet.api("GET", "/readyz")).status).toBe(200);
    expect(await fleet.broken()).toEqual([]);
  },
);

test("Redis hangs, is killed and comes back: submissions stay quick, everything completes by polling, bells ring again", {
  timeout: 180_000,
}, async () => {
  fleet = await openFleet({ replicas: 2, heartbeatSeconds: 0.5, env: pipelines });
  await fleet.startControlPlanes();
  await fleet.startAgent("alpha");
  /** Submits at each replica, so that one of them must reach the leader and the host at the other. */
  const story = async (what: string) => {
    const ids: string[] = [];
    for (const { name } of fleet.replicas) {
      const began = performance.now();
      const answer = await fleet.api<{ id: string }>("POST", "/api/v1/jobs", { pipeline: "passes", request: {} }, name);
      expect(performance.now() - began, `${what}: latency of a submission`).toBeLessThan(1_000);
      expect(answer.status).toBeLessThan(300);
      ids.push(answer.body.id);
    }
    for (const id of ids) expect((await fleet.until(id, what, isOver, 60_000)).state).toBe("completed");
  };
  await story("Redis is there");
  await fleet.redis.freeze();
  await story("Redis hangs");
  await fleet.redis.thaw();
  await story("Redis goes on");
  await fleet.redis.stop("SIGKILL");
  await story("Redis is gone");
  await fleet.redis.start();
  await story("Redis is back");
  expect(await fleet.broken()).toEqual([]);
});

test("[S136] a replica uses 5 to 20 connections under load, and a statement that cannot go on ends long before 60 s", {
  timeout: 120_000,
}, async () => {
  fleet = await openFleet({ database: "outside", env: pipelines });
  await fleet.startControlPlane();
  const id = await fleet.submit({ pipeline: "passes", request: {} });
  const blocker = new Client({ connectionString: fleet.postgres.url });
  await blocker.connect();
  try {
    await blocker.query("begin");
    await blocker.query("lock table jobs in access exclusive mode");
    const began = performance.now();
    const answers = Promise.all(Array.from({ length: 60 }, () => fleet.api("GET", `/api/v1/jobs/${id}`)));
    let most = 0;
    const done = answers.then(() => true);
    while (!(await Promise.race([done, pass(50)]))) {
      const { rows } = await blocker.query<{ n: number }>(
        "select count(*)::int as n from pg_stat_activity where application_name like 'renderplane %'",
      );
      most = Math.max(most, rows[0]?.n ?? 0);
    }
    expect(performance.now() - began).toBeLessThan(30_000);
    for (const answer of await answers) expect([answer.status, answer.body.code]).toEqual([503, "unavailable"]);
    expect(most).toBeGreaterThanOrEqual(5);
    expect(most).toBeLessThanOrEqual(20);
    await blocker.query("rollback");
  } finally {
    await blocker.end();
  }
  expect((await fleet.api("GET", `/api/v1/jobs/${id}`)).status).toBe(200);
});
