// Faults of the control plane's own processes: killed, stopped for long, frozen. F4-F7, F12, F13, F55.
import assert from "node:assert/strict";
import type { Bed } from "../bed.ts";
import { beats, type FaultCase, slackMs } from "../case.ts";
import { until } from "../until.ts";
import { pastSince } from "../wait.ts";

const two = { replicas: 2 } as const;
const worksOf = async (bed: Bed, job: string) => (await bed.attempts(job)).filter((each) => each.stage === "work");
const leaderOf = async (bed: Bed, loop: string): Promise<string | undefined> => {
  const [row] = await bed.fleet.sql<{ holder: string }>(
    `select holder from leaders where loop = $1 and lease_until > clock_timestamp()`,
    [loop],
  );
  // A replica's id is its name and a suffix of this start.
  return row?.holder.replace(/\.[0-9a-f]{8}$/, "");
};
const otherThan = (bed: Bed, name: string): string => {
  const other = bed.fleet.replicas.find((replica) => replica.name !== name);
  if (!other) throw new Error("there is one replica only");
  return other.name;
};

export const replicaCases: readonly FaultCase[] = [
  {
    faults: ["F4", "F5"],
    injected: "kill -9 of the leading replica amid claims and accepts, four times, with jobs arriving all the time",
    fleet: two,
    within: { recoverMs: beats(12) + 12_000 + slackMs },
    run: async (bed) => {
      await bed.fleet.startControlPlanes();
      await bed.startAgent("alpha");
      let recoverMs = 0;
      for (let round = 0; round < 4; round++) {
        const leader = (await leaderOf(bed, "placer")) ?? "control-plane";
        const burst = arrive(bed, 12);
        // Into the burst: between a claim and its commit, or between that and the offer, as it happens.
        await until("a part of the burst is placed", pastSince(20 + round * 35));
        const began = performance.now();
        await bed.kill9(leader);
        await burst;
        await bed.settled();
        recoverMs = Math.max(recoverMs, performance.now() - began);
        await bed.fleet.startControlPlane(leader);
      }
      const [row] = await bed.fleet.sql<{ held: bigint }>(
        `select coalesce(sum(held_micros), 0)::bigint as held from jobs`,
      );
      assert.equal(row?.held, 0n, "a hold leaked");
      return { detectMs: null, recoverMs, note: "holds leaked 0" };
    },
  },
  {
    faults: ["F5"],
    injected: "kill -9 of the replica that holds the host, while it works",
    fleet: two,
    within: { recoverMs: 20_000 },
    run: async (bed) => {
      await bed.fleet.startControlPlanes();
      await bed.startAgent("alpha");
      const { job, attempt } = await bed.begin("drill-6");
      const [row] = await bed.fleet.sql<{ replica: string }>(`select replica from hosts where name = 'alpha'`);
      const holder = (row?.replica ?? "control-plane").replace(/\.[0-9a-f]{8}$/, "");
      await bed.kill9(holder);
      const other = otherThan(bed, holder);
      const recoverMs = await until(
        "the host is at the other replica",
        async () =>
          (await bed.fleet.sql(`select id from hosts where name = 'alpha' and replica like $1`, [`${other}.%`]))
            .length > 0,
        30_000,
        50,
      );
      await bed.settled();
      assert.deepEqual(
        (await worksOf(bed, job)).map((each) => each.id),
        [attempt.id],
      );
      return { detectMs: null, recoverMs, note: "same attempt, same fence" };
    },
  },
  {
    faults: ["F6"],
    injected: "kill -9 of the only control plane, away for three lost windows, while a stage works and another ends",
    within: { recoverMs: 20_000 + slackMs },
    run: async (bed) => {
      await bed.fleet.startControlPlane();
      await bed.startAgent("alpha");
      const { job, attempt } = await bed.begin("drill-12");
      const ends = await bed.begin("drill-6");
      await bed.kill9("control-plane");
      await until("three lost windows", pastSince(beats(36)), 60_000);
      const began = performance.now();
      await bed.fleet.startControlPlane();
      await until("the host is back", () => bed.isOnline("alpha"), 30_000);
      const recoverMs = performance.now() - began;
      await bed.settled();
      for (const { job: id, attempt: first } of [{ job, attempt }, ends])
        assert.deepEqual(
          (await worksOf(bed, id)).map((each) => each.id),
          [first.id],
          "work was given away",
        );
      return {
        detectMs: null,
        recoverMs,
        note: "reassigned 0, results lost 0 (mended: from the start of the new process)",
      };
    },
  },
  {
    faults: ["F7"],
    injected: "the control plane is away for longer than a stage may be orphaned",
    allowed: ["cancelled"],
    run: async (bed) => {
      await bed.fleet.startControlPlane();
      await bed.startAgent("alpha");
      const exclusive = await bed.begin("drill-exclusive-90");
      const orphan = await bed.begin("drill-90");
      const began = performance.now();
      await bed.kill9("control-plane");
      const gone = (id: string) => async () => !(await bed.processes("alpha")).includes(id);
      const exclusiveMs = await until("the exclusive stage was stopped", gone(exclusive.attempt.id), beats(6) + 15_000);
      await until("the orphan was stopped", gone(orphan.attempt.id), beats(120) + 15_000, 250);
      const orphanMs = performance.now() - began;
      assert.ok(orphanMs > beats(60), "the orphan was stopped too early");
      await bed.fleet.startControlPlane();
      for (const { job } of [exclusive, orphan]) await bed.fleet.api("POST", `/api/v1/jobs/${job}/cancel`);
      await bed.settled();
      return {
        detectMs: null,
        recoverMs: null,
        note: `exclusive stopped after ${(exclusiveMs / 1000).toFixed(1)} s, orphan after ${(orphanMs / 1000).toFixed(1)} s`,
      };
    },
  },
  {
    faults: ["F12", "F13"],
    injected: "SIGSTOP of the leading replica amid claims, SIGCONT after the takeover",
    fleet: two,
    within: { detectMs: beats(3) + slackMs, recoverMs: 11_000 + beats(12) + slackMs },
    run: async (bed) => {
      await bed.fleet.startControlPlanes();
      await bed.startAgent("alpha");
      const leader = await leaderNow(bed, "placer");
      const other = otherThan(bed, leader);
      const began = performance.now();
      await bed.submit("drill-0", 5);
      bed.fleet.freeze(leader);
      const detectMs = await until(
        "the other one leads",
        async () => (await leaderOf(bed, "placer")) === other,
        30_000,
        50,
      );
      await bed.submit("drill-0", 5);
      await bed.settled();
      const recoverMs = performance.now() - began;
      bed.fleet.thaw(leader);
      await until("some turns of the thawed one", pastSince(beats(6)));
      await bed.submit("drill-0", 5);
      await bed.settled();
      return { detectMs, recoverMs, note: "terms only grew; rows held by the frozen claim came free" };
    },
  },
  {
    faults: ["F55"],
    injected: "rolling restart of two replicas under load (SIGTERM, start, one after the other)",
    fleet: two,
    run: async (bed) => {
      await bed.fleet.startControlPlanes();
      await bed.startAgent("alpha");
      const { job, attempt } = await bed.begin("drill-12");
      const began = performance.now();
      for (const { name } of bed.fleet.replicas) {
        const load = bed.submit("drill-0", 6);
        assert.equal(await bed.fleet.terminate(name), 0, `${name} did not end in order`);
        await load;
        await bed.fleet.startControlPlane(name);
      }
      const recoverMs = performance.now() - began;
      await bed.settled();
      assert.deepEqual(
        (await worksOf(bed, job)).map((each) => each.id),
        [attempt.id],
        "work was given away",
      );
      const [row] = await bed.fleet.sql<{ count: number }>(
        `select count(*)::int as count from attempts where outcome = 'lost'`,
      );
      assert.equal(row?.count, 0);
      return { detectMs: null, recoverMs, note: "requeues of running work 0, refused submissions 0" };
    },
  },
];

/** One after the other. A client whose request was cut off does not know whether its job exists: it goes on with the next. */
const arrive = async (bed: Bed, count: number): Promise<void> => {
  for (let n = 0; n < count; n++) await bed.submit("drill-0").catch(() => {});
};

const leaderNow = async (bed: Bed, loop: string): Promise<string> => {
  await until(`somebody leads ${loop}`, async () => (await leaderOf(bed, loop)) !== undefined, 20_000, 50);
  return (await leaderOf(bed, loop)) ?? "control-plane";
};
