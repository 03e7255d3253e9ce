// Faults of the network between a host and the control plane, made by proxies of this process. F14-F18.
import assert from "node:assert/strict";
import { Outcome } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import type { Bed } from "../bed.ts";
import { beats, type FaultCase, slackMs } from "../case.ts";
import { behave, held, type RawAgent, type RawSession } from "../raw-agent.ts";
import type { TcpProxy } from "../tcp-proxy.ts";
import { until } from "../until.ts";
import { pastSince } from "../wait.ts";

const outcomeOf = async (bed: Bed, job: string, id: string) =>
  (await bed.attempts(job)).find((each) => each.id === id)?.outcome;

/** Alpha behind a proxy with work on it, beta idle beside it. Beta is held back until the work has begun, so that it begins on alpha. */
const behindProxy = async (bed: Bed, pipeline: string) => {
  const proxy = await bed.proxy();
  await bed.fleet.startControlPlane("control-plane", { RENDERPLANE_AGENT_ADDRESS: proxy.address });
  await bed.startAgent("alpha", { proxy });
  await bed.startAgent("beta", { env: { RENDERPLANE_SESSION_ADDRESS: bed.fleet.replicas[0]?.agentAddress } });
  await bed.fleet.api("POST", "/api/v1/hosts/beta/cordon", {});
  const work = await bed.begin(pipeline);
  await bed.fleet.api("POST", "/api/v1/hosts/beta/uncordon", {});
  return { proxy, ...work };
};

const partition = (faults: readonly string[], injected: string, hold: "up" | "down" | "both"): FaultCase => ({
  faults,
  injected,
  within: { recoverMs: beats(16) + slackMs },
  run: async (bed) => {
    const { proxy, job, attempt } = await behindProxy(bed, "drill-12");
    const began = performance.now();
    proxy.set({ hold });
    const detectMs = await until(
      "the lease was given up",
      async () => (await outcomeOf(bed, job, attempt.id)) === "lost",
      30_000,
      50,
    );
    const next = await bed.nextRunning(job, attempt);
    const recoverMs = performance.now() - began;
    assert.notEqual(next.host, attempt.host, "it was given to the host that is cut off");
    proxy.heal();
    const healed = performance.now();
    await until(
      "the old program is gone",
      async () => !(await bed.processes("alpha")).includes(attempt.id),
      30_000,
      50,
    );
    const goneMs = performance.now() - healed;
    await until("the host is back", () => bed.isOnline("alpha"), 30_000);
    await bed.settled();
    assert.equal(await outcomeOf(bed, job, next.id), "succeeded");
    return { detectMs, recoverMs, note: `after healing the old program was gone in ${(goneMs / 1000).toFixed(1)} s` };
  },
});

export const networkCases: readonly FaultCase[] = [
  partition(["F14"], "black hole between a host and the control plane; both live on, old bytes arrive late", "both"),
  partition(["F15"], "one way: what the host says is lost, what it is told arrives", "up"),
  {
    faults: ["F15"],
    injected: "the other way: what the host is told is lost, what it says arrives",
    run: async (bed) => {
      // It is heard, so nothing is given away; it hears nothing, so it goes on as long as it may and connects anew.
      const { proxy, job, attempt } = await behindProxy(bed, "drill-12");
      const [late = ""] = await bed.submit("drill-0");
      proxy.set({ hold: "down" });
      await until("two lost windows", pastSince(beats(24)), 60_000);
      const began = performance.now();
      proxy.heal();
      await bed.settled();
      const stuck = (await bed.attempts(late)).filter((each) => each.state === "offered");
      assert.deepEqual(stuck, [], "an offer that nobody answered is stuck");
      const outcomes = (await bed.attempts(job)).filter((each) => each.stage === "work").map((each) => each.outcome);
      assert.equal(outcomes.filter((outcome) => outcome === "succeeded").length, 1);
      return {
        detectMs: null,
        recoverMs: performance.now() - began,
        note: `first attempt ${await outcomeOf(bed, job, attempt.id)}; offers stuck 0`,
      };
    },
  },
  {
    faults: ["F16"],
    injected: "every connection reset (RST) once a second, ten times",
    run: async (bed) => {
      const { proxy, job, attempt } = await behindProxy(bed, "drill-12");
      const epochBefore = await epochOf(bed, "alpha");
      for (let storm = 0; storm < 10; storm++) {
        proxy.sever();
        await until("a second", pastSince(1_000));
      }
      const began = performance.now();
      await until("the host is back", () => bed.isOnline("alpha"), 30_000);
      const recoverMs = performance.now() - began;
      await bed.settled();
      assert.deepEqual(
        (await bed.attempts(job)).filter((each) => each.stage === "work").map((each) => each.id),
        [attempt.id],
      );
      const sessions = Number((await epochOf(bed, "alpha")) - epochBefore);
      assert.ok(sessions <= 30, `${sessions} sessions for ten resets`);
      return { detectMs: null, recoverMs, note: `${sessions} new sessions, same attempt` };
    },
  },
  {
    faults: ["F17"],
    injected: "500 ms round trip and 50 KB/s",
    fleet: { heartbeatSeconds: 1 },
    run: async (bed) => {
      const proxy = await bed.proxy();
      proxy.set({ delayMs: 250, bytesPerSecond: 50_000 });
      await bed.fleet.startControlPlane("control-plane", { RENDERPLANE_AGENT_ADDRESS: proxy.address });
      await bed.startAgent("alpha", { proxy });
      const began = performance.now();
      const { job, attempt } = await bed.begin("drill-6");
      await bed.settled();
      const [suspected] = await bed.fleet.sql<{ count: number }>(
        `select count(*)::int as count from events where type in ('host.suspect', 'host.offline')`,
      );
      assert.equal(suspected?.count, 0, "a slow host was suspected");
      assert.deepEqual(
        (await bed.attempts(job)).filter((each) => each.stage === "work").map((each) => each.id),
        [attempt.id],
      );
      return { detectMs: null, recoverMs: performance.now() - began, note: "suspected 0, requeues 0" };
    },
  },
  {
    faults: ["F18"],
    injected: "three of four hosts of a pool partitioned at once",
    run: async (bed) => {
      const proxy = await bed.proxy();
      await bed.fleet.startControlPlane("control-plane", { RENDERPLANE_AGENT_ADDRESS: proxy.address });
      const hosts = await Promise.all(["one", "two", "three", "four"].map((name) => bed.raw(name, { cores: 0.2 })));
      const sessions = await Promise.all(hosts.map((host, at) => opened(host, at < 3 ? proxy : undefined)));
      const lives = hosts.map((host, at) => behave(sessions[at] as RawSession, host, { workMs: 60_000 }));
      await bed.submit("drill-90", 8);
      await until("all work", async () => (await liveOn(bed)) === 8, 30_000, 100);
      const began = performance.now();
      proxy.set({ hold: "both" });
      const valves = () => bed.fleet.sql(`select pool from pool_valves where opens_at > clock_timestamp()`);
      const detectMs = await until("the valve closes", async () => (await valves()).length === 1, 30_000, 100);
      await until("three lost windows", pastSince(beats(36)), 60_000);
      const [lost] = await bed.fleet.sql<{ count: number }>(
        `select count(*)::int as count from attempts where outcome = 'lost'`,
      );
      assert.equal(lost?.count, 0, "work of silent hosts was given away");
      const [told] = await bed.fleet.sql<{ count: number }>(
        `select count(*)::int as count from events where type = 'pool.valve_closed'`,
      );
      assert.equal(told?.count, 1, "one alert an episode");
      proxy.heal();
      // They come back as agents do, with what they hold.
      for (const host of hosts.slice(0, 3)) {
        const leases = await leasesOf(bed, host);
        const back = host.session({ address: proxy.address, held: leases.map((lease) => held(lease)) });
        await back.ack;
        for (const lease of leases) back.holds.set(lease.attemptId, lease);
      }
      await until("the valve opens", async () => (await valves()).length === 0, 60_000, 100);
      const recoverMs = performance.now() - began;
      for (const { id } of await bed.fleet.sql<{ id: string }>(`select id from jobs`))
        await bed.fleet.api("POST", `/api/v1/jobs/${id}/cancel`);
      for (const host of hosts)
        for (const lease of await leasesOf(bed, host))
          await host.complete({ ...lease, outcome: Outcome.OUTCOME_CANCELLED }).catch(() => {});
      await bed.settled();
      await Promise.all(lives.map((life) => life.stop()));
      return { detectMs, recoverMs, note: "reassigned 0, alerts 1" };
    },
    allowed: ["cancelled"],
  },
];

const epochOf = async (bed: Bed, host: string): Promise<bigint> =>
  (await bed.fleet.sql<{ epoch: bigint }>(`select epoch from hosts where name = $1`, [host]))[0]?.epoch ?? 0n;
const liveOn = async (bed: Bed): Promise<number> =>
  (await bed.fleet.sql(`select id from attempts where state = 'running'`)).length;
const leasesOf = (bed: Bed, host: RawAgent) =>
  bed.fleet.sql<{ attemptId: string; fence: bigint }>(
    `select id as "attemptId", fence from attempts where host_id = $1 and state <> 'ended'`,
    [host.hostId],
  );
const opened = async (host: RawAgent, proxy: TcpProxy | undefined): Promise<RawSession> => {
  const session = host.session(proxy ? { address: proxy.address } : {});
  await session.ack;
  return session;
};
