// The guards of the reaper on a real database: two looks, the valve of a pool, the pace of giving away, and outages of ours.
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { createReaper } from "../loops/reaper.ts";
import { type Engine, openEngine } from "../testing/engine.ts";
import { brokenInvariants } from "../testing/invariants.ts";
import { behindGates } from "../testing/statement-gates.ts";
import { judgeValves, openValve } from "./judge-valves.ts";
import { beatReaper, reapLeases } from "./reap-leases.ts";
import { recordHealth } from "./renew-leases.ts";

let engine: Engine;
beforeEach(async () => {
  engine = await openEngine();
});
afterEach(async () => {
  expect(await brokenInvariants((text) => engine.sql(text))).toEqual([]);
  await engine.close();
});

type Running = { readonly hostId: string; readonly epoch: bigint; readonly jobId: string; readonly attemptId: string };
/** So many hosts, each with one attempt that runs. */
const running = async (count: number): Promise<Running[]> => {
  const hosts = [];
  for (const name of "abcdefghjkmnp".slice(0, count)) hosts.push(await engine.host(name, { cores: 1 }));
  for (let i = 0; i < count; i++) await engine.submit();
  const all: Running[] = [];
  for (const h of hosts) {
    const [offer] = await engine.offers(h);
    if (!offer) throw new Error("nothing was offered");
    await engine.accept(h, offer);
    all.push({ ...h, jobId: offer.jobId, attemptId: offer.attemptId });
  }
  return all;
};
/** Silent for so many beats, leases included: they were renewed with the last heartbeat. */
const silent = (hosts: readonly Running[], beats: number) => {
  const { heartbeatMs, leaseMs } = engine.ctx.timings;
  const ids = hosts.map((h) => h.hostId);
  return engine.sql(
    `with h as (update hosts set last_seen_at = clock_timestamp() - make_interval(secs => $2::float8 / 1000) where id = any($1) returning id)
     update attempts set lease_until = clock_timestamp() - make_interval(secs => ($2 - $3)::float8 / 1000) where host_id = any($1)`,
    [ids, heartbeatMs * beats, leaseMs],
  );
};
const lost = async () => (await engine.sql(`select 1 from attempts where outcome = 'lost'`)).length;
const valveEvents = async () =>
  (
    await engine.sql<{ type: string; body: Record<string, unknown> }>(
      `select type, body from events where type like 'pool.%' order by id`,
    )
  ).map(({ type, body }) => (body.rule === undefined ? type : `${type} ${body.rule}`));
const longHeard = 3_600_000;

describe("a lease is given away", () => {
  test("only when it was seen overdue twice, a beat apart; an offer expires at the first look", async () => {
    const [h] = await running(1);
    if (!h) throw new Error("no host");
    const offered = await engine.host("z");
    await engine.submit();
    await engine.offers(offered);
    await engine.sql(
      `update attempts set lease_until = clock_timestamp() - interval '1 second' where state = 'offered'`,
    );
    await silent([h], 13);
    const first = new Map<string, number>();
    const { heartbeatMs } = engine.ctx.timings;
    expect(await reapLeases(engine.ctx, { first, nowMs: 0 })).toBe(1);
    expect(await lost()).toBe(0);
    expect(await reapLeases(engine.ctx, { first, nowMs: heartbeatMs / 2 })).toBe(0);
    // Renewed in between: the next time it is late, counting begins anew.
    await engine.sql(
      `update attempts set lease_until = clock_timestamp() + interval '30 seconds' where state = 'running'`,
    );
    expect(await reapLeases(engine.ctx, { first, nowMs: heartbeatMs })).toBe(0);
    await silent([h], 13);
    expect(await reapLeases(engine.ctx, { first, nowMs: heartbeatMs * 2 })).toBe(0);
    expect(await reapLeases(engine.ctx, { first, nowMs: heartbeatMs * 3 })).toBe(1);
    expect(await lost()).toBe(1);
  });

  test("for ten hosts of a pool a minute, a host's attempts together, and for other pools besides", async () => {
    const hosts = await running(13);
    await engine.sql(`update hosts set pool = 'other' where id = $1`, [hosts[12]?.hostId]);
    await silent(hosts, 13);
    // One of the hosts has two attempts.
    const [a, b] = hosts;
    await engine.sql(`update attempts set host_id = $1 where host_id = $2`, [a?.hostId, b?.hostId]);
    // Ten hosts of one pool with eleven attempts, and the one of the other pool.
    expect(await reapLeases(engine.ctx)).toBe(12);
    expect(await reapLeases(engine.ctx)).toBe(0);
    await engine.sql(`update hosts set lost_at = lost_at - interval '61 seconds'`);
    expect(await reapLeases(engine.ctx)).toBe(1);
    expect(await lost()).toBe(13);
  });
});

describe("an outage of ours", () => {
  test("gives every lease its whole time again; a change of the leader does not", async () => {
    const hosts = await running(1);
    await beatReaper(engine.ctx);
    await silent(hosts, 13);
    const beats = (count: number) =>
      engine.sql(`update pulses set at = clock_timestamp() - make_interval(secs => $1)`, [
        (engine.ctx.timings.heartbeatMs / 1000) * count,
      ]);
    await beats(4);
    expect((await beatReaper(engine.ctx)).pauseMs).toBeGreaterThan(19_000);
    const due = () => engine.sql(`select 1 from attempts where lease_until < clock_timestamp()`);
    expect(await due()).toHaveLength(1);
    await beats(7);
    // The loop itself: it beats first and finds nothing to give away.
    const reaper = createReaper(engine.ctx);
    await reaper.runOnce();
    await reaper.stop();
    expect(await due()).toEqual([]);
    expect(await lost()).toBe(0);
  });

  test("is still known when the turn that noticed it dies before the countdowns start again", async () => {
    const hosts = await running(1);
    await beatReaper(engine.ctx);
    await silent(hosts, 13);
    await engine.sql(`update pulses set at = clock_timestamp() - interval '1 hour'`);
    let statements = 0;
    const dying = behindGates(engine.ctx.db, {
      before: (gate) => {
        if (gate === "statement" && ++statements === 2) throw new Error("the process died");
      },
      after: () => {},
      committed: () => {},
    });
    await expect(beatReaper({ ...engine.ctx, db: dying })).rejects.toThrow("the process died");
    await beatReaper(engine.ctx);
    expect(await engine.sql(`select 1 from attempts where lease_until < clock_timestamp()`)).toEqual([]);
  });

  test("does not look like a pool that fell silent", async () => {
    await silent(await running(3), 4);
    const { hearingMs } = await beatReaper(engine.ctx);
    await judgeValves(engine.ctx, hearingMs);
    expect(await valveEvents()).toEqual([]);
  });
});

describe("a pool that falls silent at once", () => {
  test("keeps its work until most of it is back, and then those that are not get the time of a lease", async () => {
    const hosts = await running(4);
    await silent(hosts.slice(0, 3), 4);
    await judgeValves(engine.ctx, longHeard);
    await judgeValves(engine.ctx, longHeard);
    expect(await valveEvents()).toEqual(["pool.valve_closed"]);
    await silent(hosts.slice(0, 3), 13);
    // What was offered and not accepted is no promise: it expires.
    await engine.submit();
    expect(await reapLeases(engine.ctx)).toBe(0);
    await recordHealth(
      engine.ctx,
      [hosts[0], hosts[1]].map((h) => ({ hostId: h?.hostId ?? "", epoch: h?.epoch ?? 0n, health: {} })),
    );
    await judgeValves(engine.ctx, longHeard);
    await judgeValves(engine.ctx, longHeard);
    expect(await valveEvents()).toEqual(["pool.valve_closed", "pool.valve_opened recovered"]);
    expect(await reapLeases(engine.ctx)).toBe(0);
    await silent(hosts.slice(2, 3), 13);
    expect(await reapLeases(engine.ctx)).toBe(1);
  });

  test("is given away when a person says so, and the same silence does not close it again", async () => {
    const hosts = await running(3);
    await silent(hosts, 13);
    await judgeValves(engine.ctx, longHeard);
    expect(await reapLeases(engine.ctx)).toBe(0);
    const open = () => openValve(engine.ctx, { pool: "default", reason: "the rack burned", by: "dana" });
    expect([await open(), await open()]).toEqual([true, false]);
    await judgeValves(engine.ctx, longHeard);
    expect(await reapLeases(engine.ctx)).toBe(3);
    expect(await valveEvents()).toEqual(["pool.valve_closed", "pool.valve_opened operator"]);
    await expect(openValve(engine.ctx, { pool: "none", reason: "", by: "" })).rejects.toMatchObject({
      code: "not_found",
    });
  });

  test("is given away when its time is up", async () => {
    const hosts = await running(3);
    await silent(hosts, 13);
    await judgeValves(engine.ctx, longHeard);
    await engine.sql(
      `update pool_valves set opens_at = clock_timestamp(), closed_at = closed_at - interval '10 minutes'`,
    );
    await judgeValves(engine.ctx, longHeard);
    expect(await reapLeases(engine.ctx)).toBe(3);
    expect(await valveEvents()).toEqual(["pool.valve_closed", "pool.valve_opened time"]);
  });

  test("is not one whose hosts said goodbye, and hosts that are away for long do not count", async () => {
    const hosts = await running(5);
    await engine.sql(`update hosts set left_at = clock_timestamp() where id = any($1)`, [
      hosts.slice(0, 3).map((h) => h.hostId),
    ]);
    await silent(hosts.slice(0, 3), 4);
    await judgeValves(engine.ctx, longHeard);
    await silent(hosts.slice(3), 40);
    await engine.sql(`update hosts set left_at = null`);
    await silent(hosts.slice(0, 2), 1);
    // Two of five are silent lately, two for long: one of three.
    await judgeValves(engine.ctx, longHeard);
    expect(await valveEvents()).toEqual([]);
  });
});
