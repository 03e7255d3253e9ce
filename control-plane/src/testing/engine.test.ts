// Stories of the engine on a real database; the test plays the hosts. Every story ends with the invariants.
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { placeStages } from "../operations/place-stages.ts";
import { reapLeases } from "../operations/reap-leases.ts";
import { relayEvents } from "../operations/relay-events.ts";
import { renewLeases } from "../operations/renew-leases.ts";
import { takeOffers } from "../operations/take-offers.ts";
import { wakeStages } from "../operations/wake-stages.ts";
import { type Engine, openEngine } from "./engine.ts";
import { brokenInvariants } from "./invariants.ts";

let engine: Engine;
beforeEach(async () => {
  engine = await openEngine({ timings: { leaseMs: 1000, graceMs: 0, offerMs: 1000 } });
});
afterEach(async () => {
  expect(await brokenInvariants((text) => engine.sql(text))).toEqual([]);
  await engine.close();
});

/** Runs one stage to its success. */
const work = async (h: { hostId: string; epoch: bigint }) => {
  const [offer] = await engine.offers(h);
  if (!offer) throw new Error("nothing was offered");
  expect(await engine.accept(h, offer)).toBe(true);
  expect(await engine.finish(h.hostId, offer)).toBe(true);
  return offer;
};
const failing = (failureClass: string) => ({
  outcome: "failed" as const,
  failure: { failureClass, severity: "", message: `it was ${failureClass}` },
});
const pastLease = (attemptId: string) =>
  engine.sql(`update attempts set lease_until = clock_timestamp() - interval '1 minute' where id = $1`, [attemptId]);

describe("a job", () => {
  test("[S138] submitting writes job, stages, events and its place in the queue in one transaction", async () => {
    const first = await engine.submit();
    const second = await engine.submit({ priority: 9 });
    expect((await engine.detail(first)).position).toBe(2);
    expect((await engine.detail(second)).position).toBe(1);
    expect((await engine.detail(first)).stages.map((s) => s.state)).toEqual(["ready", "pending"]);
    expect(await engine.sql(`select type, body ->> 'position' as position from events order by id`)).toEqual([
      { type: "job.queued", position: "1" },
      { type: "job.queued", position: "1" },
    ]);
    // A submission that fails in its last statement leaves nothing.
    await engine.sql(
      `create function stop_events() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$`,
    );
    await engine.sql(`create trigger stop before insert on events for each row execute function stop_events()`);
    await expect(engine.submit()).rejects.toThrow("no");
    expect(await engine.sql(`select count(*)::int as n from jobs`)).toEqual([{ n: 2 }]);
  });

  test("[S134] carries id, user, channel, priority, complexity, request, estimate and time, with the defaults of the requirements", async () => {
    const { job } = await engine.detail(
      await engine.submit({ pipeline: "narrated-video", request: { script: "Hello." } }),
    );
    expect(job).toMatchObject({
      userId: "default",
      channelId: "default",
      priority: 5,
      complexity: "simple",
      estimatedMicros: 2_000_000n,
    });
    expect(job.id).toMatch(/^v_/);
    expect(job.request).toMatchObject({ script: "Hello." });
    expect(Math.abs(job.createdAt.getTime() - Date.now())).toBeLessThan(60_000);
    const own = await engine.detail(
      await engine.submit({
        pipeline: "narrated-video",
        user_id: "u",
        channel_id: "c",
        priority: 8,
        complexity: "premium",
        request: { script: "x" },
      }),
    );
    expect(own.job).toMatchObject({
      userId: "u",
      channelId: "c",
      priority: 8,
      complexity: "premium",
      estimatedMicros: 2_800_000n,
    });
  });

  test("[S146] its position is 1-based and -1 when it does not wait", async () => {
    const h = await engine.host("a");
    const id = await engine.submit();
    expect((await engine.detail(id)).position).toBe(1);
    const [offer] = await engine.offers(h);
    if (offer) await engine.accept(h, offer);
    expect((await engine.detail(id)).position).toBe(-1);
  });

  test("[S165] ends completed, with one terminal event and the result object of the requirements", async () => {
    const h = await engine.host("a");
    const id = await engine.submit();
    const first = await work(h);
    const second = await work(h);
    expect([first.stage, second.stage]).toEqual(["first", "second"]);
    expect(second.results).toMatchObject({ first: { ok: true } });
    const { job } = await engine.detail(id);
    expect(job.state).toBe("completed");
    expect(job.result).toMatchObject({
      video_id: id,
      status: "completed",
      results: { first: { ok: true }, second: { ok: true } },
    });
    expect(typeof job.result?.cost).toBe("number");
    expect(typeof job.result?.processing_time).toBe("number");
  });

  test("[S154] tells the progress in percent after every stage", async () => {
    const h = await engine.host("a");
    const id = await engine.submit();
    await work(h);
    await work(h);
    const rows = await engine.sql<{ body: Record<string, unknown> }>(
      `select body from events where type = 'progress' order by id`,
    );
    expect(rows.map((r) => [r.body.video_id, r.body.stage, r.body.progress])).toEqual([
      [id, "first", 50],
      [id, "second", 100],
    ]);
    for (const r of rows) expect(Date.parse(String(r.body.timestamp))).not.toBeNaN();
  });

  test("[S148] its events reach the channels that the requirements name", async () => {
    const heard: [string, unknown][] = [];
    for (const channel of [
      "pipeline:video.completed",
      "pipeline:progress",
      "pipeline:alert",
      "pipeline:alert.critical",
      "alerts:cost",
    ])
      engine.ctx.bus.subscribe(channel, (message) => heard.push([channel, message]));
    const h = await engine.host("a");
    const done = await engine.submit();
    await work(h);
    await work(h);
    const failed = await engine.submit();
    const [offer] = await engine.offers(h);
    if (offer) {
      await engine.accept(h, offer);
      await engine.finish(h.hostId, offer, failing("input_corrupt"));
    }
    const dear = await engine.submit({ cost_limit: 100 });
    const [costly] = await engine.offers(h);
    if (costly) {
      await engine.accept(h, costly);
      await engine.finish(h.hostId, costly, {
        usage: [{ service: "openai", provider: "openai", unit: "token", quantity: 1_450_000 }],
      });
    }
    while ((await relayEvents(engine.ctx)).length > 0);
    // The bus never makes a publisher wait: messages arrive a moment later.
    await vi.waitFor(() => expect(heard.length).toBe(9));
    const of = (channel: string) => heard.filter(([c]) => c === channel).map(([, m]) => m);
    expect(of("pipeline:video.completed")).toMatchObject([
      { video_id: done, metadata: { stages: { first: { ok: true } } } },
    ]);
    expect(of("pipeline:progress")).toMatchObject([
      { video_id: done, progress: 50 },
      { progress: 100 },
      { video_id: dear },
    ]);
    expect(of("pipeline:alert")).toMatchObject([
      { video_id: failed, type: "job.failed" },
      { video_id: dear, level: "warning" },
    ]);
    expect(of("alerts:cost")).toMatchObject([
      { video_id: dear, level: "warning" },
      { level: "critical", cost: expect.closeTo(2.9, 3) },
    ]);
    expect(of("pipeline:alert.critical")).toMatchObject([{ video_id: dear, level: "critical" }]);
  });

  test("[S155] one that took longer than ten minutes is reported, and still completes", async () => {
    const h = await engine.host("a");
    const id = await engine.submit();
    await work(h);
    await engine.sql(`update jobs set started_at = started_at - interval '601 seconds' where id = $1`, [id]);
    await work(h);
    expect((await engine.detail(id)).job.state).toBe("completed");
    const [event] = await engine.sql<{ body: object }>(`select body from events where type = 'job.over_target'`);
    expect(event?.body).toMatchObject({ is_slow: true, is_dear: false, target_seconds: 600, target_cost: 2.5 });
  });

  test("[S150] is readable through the tables of the requirements", async () => {
    const h = await engine.host("a");
    const id = await engine.submit();
    await work(h);
    const [second] = await engine.offers(h);
    if (second) {
      await engine.accept(h, second);
      await engine.finish(h.hostId, second, failing("timeout"));
      await new Promise((r) => setTimeout(r, 20));
      await wakeStages(engine.ctx);
      await work(h);
    }
    const [row] = await engine.sql<Record<string, unknown>>(`select * from video_queue where id = $1`, [id]);
    expect(row).toMatchObject({
      status: "completed",
      user_id: "default",
      retry_count: 1,
      error_log: [{ error: "it was timeout" }],
    });
    expect(Number(row?.processing_time_seconds)).toBeGreaterThan(0);
    expect(row?.metadata).toMatchObject({ video_id: id });
    const costs = await engine.sql<Record<string, unknown>>(
      `select video_id, service, operation, amount, "timestamp" from pipeline_costs`,
    );
    expect(costs.map((c) => [c.video_id, c.service, c.operation])).toContainEqual([id, "cpu_compute", "first"]);
    await engine.sql(
      `insert into analytics_data (channel_id, metric_type, metric_value) values ('c', 'views', '{"n": 1}')`,
    );
    expect(await engine.sql(`select channel_id, metric_value from analytics_data`)).toEqual([
      { channel_id: "c", metric_value: { n: 1 } },
    ]);
  });
});

describe("nothing is done twice", () => {
  test("the same key and content answer the same job; another content is refused", async () => {
    const ids = await Promise.all([1, 2, 3, 4, 5].map(() => engine.submit({}, "k")));
    expect(new Set(ids).size).toBe(1);
    expect(await engine.submit({}, "k")).toBe(ids[0]);
    await expect(engine.submit({ priority: 1 }, "k")).rejects.toMatchObject({ code: "idempotency_conflict" });
    expect(await engine.sql(`select count(*)::int as n from jobs`)).toEqual([{ n: 1 }]);
  });

  test("a key is free again after 24 hours", async () => {
    const first = await engine.submit({}, "k");
    await engine.sql(`update idempotency set created_at = created_at - interval '23 hours'`);
    expect(await engine.submit({}, "k")).toBe(first);
    await engine.sql(`update idempotency set created_at = created_at - interval '1 hour'`);
    const second = await engine.submit({ priority: 1 }, "k");
    expect(second).not.toBe(first);
    expect(await engine.submit({ priority: 1 }, "k")).toBe(second);
    expect(await engine.sql(`select count(*)::int as n from idempotency`)).toEqual([{ n: 1 }]);
  });

  test("a result that arrives fifty times at once is applied, charged and answered once", async () => {
    const h = await engine.host("a");
    const id = await engine.submit();
    const [offer] = await engine.offers(h);
    if (!offer) throw new Error("no offer");
    await engine.accept(h, offer);
    const usage = [{ service: "openai", provider: "openai", unit: "token", quantity: 1000 }];
    const answers = await Promise.all(Array.from({ length: 50 }, () => engine.finish(h.hostId, offer, { usage })));
    expect(answers.every(Boolean)).toBe(true);
    expect(await engine.sql(`select micros from ledger where service = 'openai'`)).toEqual([{ micros: 2000n }]);
    expect((await engine.detail(id)).stages.map((s) => s.state)).toEqual(["succeeded", "ready"]);
  });

  test("two placers at once give each stage to one host, and no host more than it has", async () => {
    const a = await engine.host("a", { cores: 2 });
    const b = await engine.host("b", { cores: 2 });
    for (let i = 0; i < 8; i++) await engine.submit();
    await Promise.all(Array.from({ length: 6 }, () => placeStages(engine.ctx)));
    await placeStages(engine.ctx);
    expect((await takeOffers(engine.ctx, a)).length).toBe(2);
    expect((await takeOffers(engine.ctx, b)).length).toBe(2);
    expect(await takeOffers(engine.ctx, b)).toEqual([]);
  });

  test("a stale fence changes nothing", async () => {
    const h = await engine.host("a");
    const id = await engine.submit();
    const [offer] = await engine.offers(h);
    if (!offer) throw new Error("no offer");
    await engine.accept(h, offer);
    await pastLease(offer.attemptId);
    expect(await reapLeases(engine.ctx)).toBe(1);
    expect(await engine.finish(h.hostId, offer)).toBe(false);
    expect(await engine.finish(h.hostId, { ...offer, fence: offer.fence + 1n })).toBe(false);
    expect(await engine.accept(h, offer)).toBe(false);
    expect([
      ...(await renewLeases(engine.ctx, [
        { ...h, attemptId: offer.attemptId, fence: offer.fence, progress: 1, step: "", etaMs: null },
      ])),
    ]).toEqual([]);
    expect((await engine.detail(id)).stages[0]?.state).toBe("waiting");
  });

  test("another host cannot end an attempt that is not its own", async () => {
    const a = await engine.host("a");
    const b = await engine.host("b");
    await engine.submit();
    await placeStages(engine.ctx);
    const [offer] = [...(await takeOffers(engine.ctx, a)), ...(await takeOffers(engine.ctx, b))];
    const [owner] = await engine.sql<{ hostId: string }>(`select host_id as "hostId" from attempts`);
    const stranger = owner?.hostId === a.hostId ? b : a;
    if (!offer) throw new Error("no offer");
    expect(await engine.finish(stranger.hostId, offer)).toBe(false);
    expect(await engine.accept(stranger, offer)).toBe(false);
  });
});
