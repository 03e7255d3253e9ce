// Two replicas on one PostgreSQL and one Redis: any of them may be killed or replaced while work runs, and nothing runs twice.
import { randomUUID } from "node:crypto";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, expect, test } from "vitest";
import { type Fleet, isOver, openFleet, processesOf, stageOf } from "./fleet.ts";

const heartbeatSeconds = 0.5;
/** A lead is three beats; what is measured here shares two cores with everything else that runs. */
const takeoverMs = heartbeatSeconds * 1000 * 3 + 5_000;
let fleet: Fleet;
beforeEach(async () => {
  fleet = await openFleet({
    replicas: 2,
    heartbeatSeconds,
    env: {
      RENDERPLANE_PIPELINES_DIR: fileURLToPath(new URL("pipelines", import.meta.url)),
      RENDERPLANE_MAX_RUNNING_JOBS: "50",
      RENDERPLANE_QUEUE_MAX_DEPTH: "1000",
    },
  });
  await fleet.startControlPlanes();
}, 120_000);
afterEach(() => fleet.stop(), 120_000);

/** Work that began and did not end well, or began twice. */
const unwell = `select stage_id, array_agg(outcome) from attempts where started_at is not null
  group by 1 having count(*) > 1 or bool_or(outcome <> 'succeeded')`;
const holderOf = async (host: string): Promise<string | undefined> =>
  (
    await fleet.sql<{ name: string }>(
      "select r.name from hosts h join replicas r on r.id = h.replica where h.name = $1",
      [host],
    )
  )[0]?.name;
const leaderOf = async (loop: string) => {
  const [row] = await fleet.sql<{ name: string; term: bigint }>(
    "select r.name, l.term from leaders l join replicas r on r.id = l.holder where l.loop = $1 and l.lease_until > clock_timestamp()",
    [loop],
  );
  return row;
};
const until = async (what: string, holds: () => Promise<boolean>, limitMs = 60_000): Promise<number> => {
  const began = performance.now();
  while (!(await holds().catch(() => false))) {
    if (performance.now() - began > limitMs)
      throw new Error(
        `waited ${limitMs} ms for: ${what}\n${fleet.replicas.map((r) => fleet.said(r.name).slice(-3000)).join("\n")}`,
      );
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  return performance.now() - began;
};
const another = (name: string | undefined): string => {
  const found = fleet.replicas.find((replica) => replica.name !== name);
  if (!found) throw new Error("there is no other replica");
  return found.name;
};

test("[S283] the replica that holds the host is killed: the host goes to the other one, same attempt, same fence, nothing twice", {
  timeout: 180_000,
}, async () => {
  await fleet.startAgent("alpha");
  const id = await fleet.submit({ pipeline: "waits", request: {} });
  const running = await fleet.until(id, "the stage to run", (job) => stageOf(job, "wait").progress > 0);
  const attempt = stageOf(running, "wait").attempts[0]?.id ?? "";
  const before = await fleet.sql("select id, fence from attempts");
  const pids = await processesOf(attempt);
  expect(pids.length).toBeGreaterThan(0);

  const holder = await holderOf("alpha");
  await fleet.kill9(holder ?? "");
  await until("the host at the other replica", async () => (await holderOf("alpha")) === another(holder));
  const job = await fleet.until(id, "the end", isOver);
  expect(job.state, JSON.stringify(job.failure)).toBe("completed");
  expect(await fleet.sql("select id, fence from attempts")).toEqual(before);
  expect(
    await fleet.sql("select count(*)::int as n from events where type = 'stage.succeeded' or type = 'stage.completed'"),
  ).toEqual([{ n: 1 }]);
  expect(await processesOf(attempt)).toEqual([]);
  // The dead one is forgotten, and what it led is led.
  await until(
    "the row of the dead replica to go",
    async () => (await fleet.sql("select 1 from replicas")).length === 1,
  );
  await until(
    "every loop to be led",
    async () => (await fleet.sql("select 1 from leaders where lease_until < clock_timestamp()")).length === 0,
  );
  expect(await fleet.broken()).toEqual([]);
});

test("the leader is frozen, then killed: each time the other one leads within the lease, and jobs go on", {
  timeout: 180_000,
}, async () => {
  await fleet.startAgent("alpha");
  const done = async () => {
    const id = await fleet.submit({ pipeline: "passes", request: {} });
    expect((await fleet.until(id, "the end", isOver)).state).toBe("completed");
  };
  await done();
  const first = await leaderOf("placer");
  const leader = first?.name ?? "";
  fleet.freeze(leader);
  const frozenMs = await until("another leader", async () => (await leaderOf("placer"))?.name === another(leader));
  expect(frozenMs).toBeLessThan(takeoverMs);
  await done();
  fleet.thaw(leader);
  await until(
    "the thawed one to follow",
    async () => (await fleet.api("GET", "/readyz", undefined, leader)).status === 200,
  );
  await until("its row to be back", async () => (await fleet.sql("select 1 from replicas")).length === 2);

  const second = await leaderOf("placer");
  expect(second?.term).toBeGreaterThan(first?.term ?? 0n);
  await fleet.kill9(second?.name ?? "");
  const killedMs = await until(
    "another leader",
    async () => (await leaderOf("placer"))?.name === another(second?.name),
  );
  expect(killedMs).toBeLessThan(takeoverMs);
  await done();
  expect(await fleet.sql(unwell)).toEqual([]);
  expect(await fleet.broken()).toEqual([]);
});

test("[S149] a rolling restart under load: no request fails at a client that knows both, no work is lost or repeated", {
  timeout: 240_000,
}, async () => {
  await fleet.startAgent("alpha");
  await fleet.startAgent("beta");
  const long = await fleet.submit({ pipeline: "waits", request: {} });
  await fleet.until(long, "the long stage to run", (job) => stageOf(job, "wait").progress > 0);
  const ids: string[] = [];
  const wrong: string[] = [];
  let isLoading = true;
  /** As a careful client: the other replica when one does not take the connection or drops it, under one Idempotency-Key. */
  const submitOnce = async (): Promise<void> => {
    const key = randomUUID();
    const end = performance.now() + 20_000;
    for (let n = Math.floor(Math.random() * 2); ; n++) {
      const url = fleet.replicas[n % 2]?.url ?? "";
      const answer = await fetch(`${url}/api/v1/jobs`, {
        method: "POST",
        headers: { "content-type": "application/json", "idempotency-key": key },
        body: JSON.stringify({ pipeline: "passes", request: {} }),
      }).catch(() => undefined);
      if (answer === undefined && performance.now() < end) continue;
      const body = (await answer?.json().catch(() => ({}))) as { id?: string } | undefined;
      if (answer?.status === 202 || answer?.status === 201 || answer?.status === 200) ids.push(body?.id ?? "");
      else wrong.push(`${answer?.status} ${JSON.stringify(body)}`);
      return;
    }
  };
  // Bounded: the jobs must also be worked off on two cores.
  const load = async () => {
    while (isLoading && ids.length + wrong.length < 60) {
      await submitOnce();
      await new Promise((resolve) => setTimeout(resolve, 400));
    }
  };
  const loading = load();
  for (const { name } of fleet.replicas) {
    expect(await fleet.terminate(name), fleet.said(name).slice(-3000)).toBe(0);
    await fleet.startControlPlane(name);
    await until("both replicas", async () => (await fleet.sql("select 1 from replicas")).length === 2);
  }
  isLoading = false;
  await loading;
  expect(wrong).toEqual([]);
  expect(ids.length).toBeGreaterThan(10);
  expect(new Set(ids).size).toBe(ids.length);
  for (const id of [long, ...ids]) expect((await fleet.until(id, "the end", isOver)).state, id).toBe("completed");
  // What began ended well, once. An offer that nobody took in time cost nothing and is no work.
  expect(await fleet.sql(unwell)).toEqual([]);
  expect(await fleet.broken()).toEqual([]);
});
