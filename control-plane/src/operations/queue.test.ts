// The queue over a real database: the order in which jobs leave it, its limits, its places, times before and after which, what
// runs counted for the gates, and what people read of it.
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { userGapMs } from "../domain/queue-order.ts";
import { createDeadlines } from "../loops/deadlines.ts";
import { listJobs, queuePosition } from "../store/jobs.ts";
import { inputsAtHosts, laneHistory, readConcurrency, readQueue } from "../store/queue.ts";
import { peekShare, removeIdleShares } from "../store/shares.ts";
import { type Engine, openEngine } from "../testing/engine.ts";
import { brokenInvariants } from "../testing/invariants.ts";
import { cancelJob } from "./cancel-job.ts";
import { estimateJob } from "./estimate-job.ts";
import { explainJob } from "./explain-job.ts";
import { createQueueDepth } from "./queue-depth.ts";
import { parseSubmission, submitJob } from "./submit-job.ts";
import { watchDeadlines } from "./watch-deadlines.ts";

let engine: Engine;
beforeAll(async () => {
  engine = await openEngine();
});
afterAll(() => engine.close());
beforeEach(() => engine.sql(`truncate jobs, hosts, artifacts, shares, analytics_data cascade`));
afterEach(async () => expect(await brokenInvariants(engine.sql)).toEqual([]));

const order = async () =>
  (await engine.sql<{ id: string }>(`select id from jobs where state = 'queued' order by rank, id`)).map((r) => r.id);
const inMs = (ms: number) => new Date(Date.now() + ms).toISOString();
/** Runs a job to its end on the host, one stage after the other. */
const work = async (
  h: { hostId: string; epoch: bigint },
  jobId: string,
  outputs: readonly { name: string; sha256: string; sizeBytes: number; mediaType: string }[] = [],
) => {
  for (;;) {
    const offer = (await engine.offers(h)).find((o) => o.jobId === jobId);
    if (!offer) return;
    await engine.accept(h, offer);
    await engine.finish(h.hostId, offer, { outputs: offer.stage === "first" ? outputs : [] });
  }
};

describe("the order", () => {
  test("[S139] priority goes before age, premium before simple, older before newer of the same", async () => {
    const u = (n: number) => ({ user_id: `u${n}` });
    const [old, young] = [await engine.submit(u(1)), await engine.submit(u(2))];
    const premium = await engine.submit({ ...u(3), complexity: "premium" });
    const urgent = await engine.submit({ ...u(4), priority: 6 });
    const idle = await engine.submit({ ...u(5), priority: 4, complexity: "premium" });
    expect(await order()).toEqual([urgent, premium, old, young, idle]);
  });

  test("users take turns, a user's channels too; an idle owner starts level with everybody", async () => {
    const submit = (user_id: string, channel_id: string) => engine.submit({ user_id, channel_id });
    const [a1, a2, a3] = [await submit("a", "x"), await submit("a", "x"), await submit("a", "x")];
    const other = await submit("a", "y");
    const [b1, b2] = [await submit("b", "x"), await submit("b", "x")];
    const c = await submit("c", "x");
    // a's second channel stands behind a's clock of 15 s a job, not behind the minutes of the first channel.
    expect(await order()).toEqual([a1, b1, c, other, a2, b2, a3]);
    const [row] = await engine.sql<{ share: number }>(
      `select (rank + 500000000 - extract(epoch from created_at) * 1000)::float8 as share from jobs where id = $1`,
      [other],
    );
    expect(Math.abs((row?.share ?? 0) - 3 * userGapMs)).toBeLessThan(5_000);
  });

  test("two submissions of one owner at the same moment never get the same place", async () => {
    await Promise.all(Array.from({ length: 8 }, () => engine.submit()));
    const [row] = await engine.sql<{ ranks: number; spread: number }>(
      `select count(distinct rank)::int as ranks, (max(rank) - min(rank))::float8 as spread from jobs`,
    );
    expect(row?.ranks).toBe(8);
    expect(row?.spread).toBeGreaterThan(7 * 60_000 - 1);
  });

  test("a share that lies behind now says nothing any more and can be removed", async () => {
    await engine.submit();
    const owner = { userId: "default", channelId: "default" };
    const before = await peekShare(engine.ctx.db.direct, owner);
    expect(before.fairMs - before.nowMs).toBeGreaterThan(50_000);
    await engine.sql(`update shares set next_at = clock_timestamp() - interval '1 second'`);
    expect(await removeIdleShares(engine.ctx.db.direct, 100)).toBe(2);
    const id = await engine.submit();
    const { job } = await engine.detail(id);
    expect(Math.abs(Number(job.rank) + 500_000_000 - job.createdAt.getTime())).toBeLessThan(5_000);
  });

  test("[S141] the head is the next to be placed and marked as in work; what has ended is passed over", async () => {
    const h = await engine.host("ha", { cores: 1 });
    const [first, second, third] = [
      await engine.submit({ user_id: "a" }),
      await engine.submit({ user_id: "b", priority: 9 }),
      await engine.submit({ user_id: "c", priority: 8 }),
    ];
    await cancelJob(engine.ctx, second, "not wanted");
    const [offer] = await engine.offers(h);
    expect(offer?.jobId).toBe(third);
    if (offer) await engine.accept(h, offer);
    expect((await engine.detail(third)).job.state).toBe("processing");
    expect(await order()).toEqual([first]);
  });
});

describe("places and limits", () => {
  test("[S138] [S146] a submission is stored and counted at its place; what does not wait has the place -1", async () => {
    const h = await engine.host("ha", { cores: 1 });
    const first = await engine.submit({ user_id: "a" });
    const parsed = parseSubmission({ pipeline: "pair", user_id: "b", priority: 9 }, engine.ctx.pipelines);
    const submitted = await submitJob(engine.ctx, { ...parsed, uploads: [] });
    expect(submitted.position).toBe(1);
    expect(await queuePosition(engine.ctx.db.direct, first)).toBe(2);
    const [event] = await engine.sql<{ body: { position: number } }>(
      `select body from events where type = 'job.queued' and job_id = $1`,
      [submitted.jobId],
    );
    expect(event?.body.position).toBe(1);
    const [offer] = await engine.offers(h);
    if (offer) await engine.accept(h, offer);
    expect(await queuePosition(engine.ctx.db.direct, submitted.jobId)).toBe(-1);
    expect(await queuePosition(engine.ctx.db.direct, first)).toBe(1);
    expect(await queuePosition(engine.ctx.db.direct, "v_01KX0000000000000000000000")).toBe(-1);
  });

  test("[S135] a full queue refuses, says the place that the job would have had, and moves no share", async () => {
    const small = { ...engine.ctx, settings: { ...engine.ctx.settings, queueDepth: 3 } };
    for (const user_id of ["a", "b", "c"]) await engine.submit({ user_id });
    const submit = (priority: number) =>
      submitJob(small, {
        ...parseSubmission({ pipeline: "pair", user_id: "d", priority }, small.pipelines),
        uploads: [],
      });
    await expect(submit(5)).rejects.toMatchObject({
      code: "queue_full",
      message: expect.stringContaining("holds 3 jobs, its limit is 3; this one would stand at place 4"),
      retryAfterMs: 30_000,
    });
    await expect(submit(6)).rejects.toMatchObject({ fields: [{ pointer: "/position", detail: "1" }] });
    expect(await engine.sql(`select 1 from shares where key = 'user:d'`)).toEqual([]);
    expect(await order()).toHaveLength(3);
  });

  test("[S135] with a large limit the depth is counted once a second, and what was let in since counts too", async () => {
    let [now, reads] = [0, 0];
    const { direct } = engine.ctx.db;
    const tx: typeof direct = {
      query: (sql, params) => {
        reads++;
        return direct.query(sql, params);
      },
    };
    const depth = createQueueDepth(() => now);
    await engine.submit();
    expect([await depth(tx, 20_000), await depth(tx, 20_000), reads]).toEqual([1, 2, 1]);
    now = 1_001;
    expect([await depth(tx, 20_000), reads]).toEqual([1, 2]);
    expect([await depth(tx, 100), await depth(tx, 100), reads]).toEqual([1, 1, 4]);
  });

  test("what runs is counted: begun jobs, jobs with a first offer, attempts by provider", async () => {
    const h = await engine.host("ha", { providers: ["tts.openai"] });
    const [a, b] = [await engine.submit({ user_id: "a" }), await engine.submit({ user_id: "b" })];
    await engine.sql(`update stages set spec = jsonb_set(spec, '{providers}', '["tts.openai"]') where job_id = $1`, [
      a,
    ]);
    const offers = await engine.offers(h);
    const ofA = offers.find((o) => o.jobId === a);
    if (ofA) await engine.accept(h, ofA);
    const counts = await readConcurrency(engine.ctx.db.direct, ["tts.openai", "other"]);
    expect(counts).toEqual({
      jobs: 2,
      byUser: new Map([
        ["a", 1],
        ["b", 1],
      ]),
      byPipeline: new Map([["pair", 2]]),
      byProvider: new Map([["tts.openai", 1]]),
      offeredJobs: new Set([b]),
    });
    expect((await readConcurrency(engine.ctx.db.direct, [])).byProvider.size).toBe(0);
  });
});

describe("times", () => {
  test("a job with a not_before waits for it, stands in line from then on, and says so", async () => {
    await engine.host("ha");
    const later = await engine.submit({ user_id: "a", not_before: inMs(3_600_000) });
    const now = await engine.submit({ user_id: "b" });
    expect(await order()).toEqual([now, later]);
    const detail = await engine.detail(later);
    expect(detail.stages.map((s) => s.state)).toEqual(["waiting", "pending"]);
    const { summary } = await explainJob(engine.ctx, later);
    expect(summary).toMatch(/^first may not begin before /);
    expect((await readQueue(engine.ctx.db.direct)).scheduled).toBe(1);
  });

  test.each([
    [{ deadline: "2020-01-01T00:00:00Z" }, "/deadline"],
    [{ deadline: "tomorrow" }, "/deadline"],
    [{ on_deadline: "cancel" }, "/on_deadline"],
    [{ not_before: "2999-01-01T00:00:00Z" }, "/not_before"],
    [{ not_before: inMs(7_200_000), deadline: inMs(3_600_000) }, "/deadline"],
  ])("%j is refused at %s", async (fields, pointer) => {
    await expect(engine.submit(fields)).rejects.toMatchObject({ code: "invalid_request", fields: [{ pointer }] });
  });

  test("a missed deadline is reported once, and ends the job when that was asked for", async () => {
    const h = await engine.host("ha", { cores: 1 });
    const soon = { deadline: inMs(600_000) };
    const [reported, cancelled, kept] = [
      await engine.submit({ user_id: "a", ...soon }),
      await engine.submit({ user_id: "b", ...soon, on_deadline: "cancel" }),
      await engine.submit({ user_id: "c", ...soon, on_deadline: "cancel", priority: 9 }),
    ];
    expect(await watchDeadlines(engine.ctx)).toMatchObject({
      missed: 0,
      cancelled: 0,
      nextMs: expect.closeTo(600_000, -5),
    });
    await work(h, kept);
    await engine.sql(`update jobs set deadline_at = clock_timestamp() - interval '1 second'`);
    const loop = createDeadlines(engine.ctx);
    await loop.runOnce();
    await loop.runOnce();
    const events = await engine.sql<{ id: string; type: string }>(
      `select job_id as id, type from events where type in ('job.deadline_missed', 'job.cancelled') order by id`,
    );
    expect(
      events
        .filter((e) => e.type === "job.deadline_missed")
        .map((e) => e.id)
        .sort(),
    ).toEqual([reported, cancelled].sort());
    const states = async () =>
      (await engine.sql<{ id: string; state: string }>(`select id, state from jobs`)).map((j) => [j.id, j.state]);
    expect(Object.fromEntries(await states())).toMatchObject({ [cancelled]: "cancelled", [kept]: "completed" });
    expect(Object.fromEntries(await states())[reported]).not.toBe("cancelled");
    await loop.stop();
  });

  test("a crash between the mark and the cancel is found again", async () => {
    const id = await engine.submit({ deadline: inMs(600_000), on_deadline: "cancel" });
    await engine.sql(
      `update jobs set deadline_at = clock_timestamp(), deadline_missed_at = clock_timestamp() where id = $1`,
      [id],
    );
    expect(await watchDeadlines(engine.ctx)).toMatchObject({ missed: 0, cancelled: 1 });
    expect((await engine.detail(id)).job.state).toBe("cancelled");
    expect(await watchDeadlines(engine.ctx)).toMatchObject({ missed: 0, cancelled: 0, nextMs: undefined });
  });
});

describe("what people read", () => {
  test("an estimate says when, where and for how much, and writes nothing", async () => {
    const rows = async () =>
      engine.sql(
        `select (select count(*) from jobs)::int as jobs, (select count(*) from shares)::int as shares, (select count(*) from events)::int as events`,
      );
    const none = await estimateJob(engine.ctx, { pipeline: "pair" });
    expect(none).toMatchObject({
      valid: true,
      estimate: { hosts: 0, position: 1, outlook: { start: null, finish: null } },
    });
    const h = await engine.host("ha");
    await engine.host("hc", { stageKinds: ["script"] });
    await work(h, await engine.submit({ user_id: "a" }));
    await engine.submit({ user_id: "c" });
    const before = await rows();
    const answer = await estimateJob(engine.ctx, { pipeline: "pair", user_id: "b", cost_limit: 2 });
    expect(answer).toMatchObject({
      valid: true,
      estimate: {
        position: 2,
        depth: 1,
        hosts: 1,
        cost: { estimate: 1_000_000n, limit: 2_000_000n },
        outlook: { basis: "history", start: { earliest: expect.any(Date) } },
        stages: [
          {
            stage: "first",
            hosts: 1,
            reasons: [{ rule: "kind", hosts: 1, example: "hc: its agent cannot run noop stages" }],
          },
          { stage: "second" },
        ],
      },
    });
    expect(await estimateJob(engine.ctx, { pipeline: "pair", priority: 10 })).toMatchObject({
      valid: false,
      errors: [{ pointer: "/priority" }],
    });
    expect(await estimateJob(engine.ctx, { request: { prompt: "p" } })).toMatchObject({
      valid: false,
      errors: [{ pointer: "/request/prompt" }],
    });
    await expect(estimateJob(engine.ctx, { pipeline: "nothing" })).rejects.toMatchObject({ code: "unknown_pipeline" });
    expect(await rows()).toEqual(before);
  });

  test("[S140] the estimate of a job is the pipeline's by complexity; history gives a range beside it", async () => {
    const cost = async (complexity: string) => {
      const answer = await estimateJob(engine.ctx, { complexity, request: { script: "One sentence." } });
      return answer.valid ? [Number(answer.estimate.cost.estimate) / 1e6, answer.estimate.costBasis] : [];
    };
    expect([await cost("simple"), await cost("complex"), await cost("premium")]).toEqual([
      [2, "target"],
      [2.5, "target"],
      [2.8, "target"],
    ]);
    const h = await engine.host("ha");
    await work(h, await engine.submit());
    expect(await laneHistory(engine.ctx.db.direct, { pipeline: "pair", complexity: "simple" })).toMatchObject({
      jobs: 1,
    });
    expect(await laneHistory(engine.ctx.db.direct, { pipeline: "pair", complexity: "premium" })).toBeUndefined();
  });

  test("explain names every gate and every host, and since when a host is silent", async () => {
    const full = {
      ...engine.ctx,
      settings: { ...engine.ctx.settings, concurrency: { jobs: 1, jobsPerUser: 9, attemptsPerProvider: new Map() } },
    };
    const h = await engine.host("ha", { cores: 1 });
    await engine.host("hb", { cores: 1 });
    const [a, b] = [await engine.submit({ user_id: "a", priority: 9 }), await engine.submit({ user_id: "b" })];
    await engine.sql(`update hosts set intent = 'cordoned' where name = 'hb'`);
    const [offer] = await engine.offers(h);
    expect(offer?.jobId).toBe(a);
    await engine.sql(`update hosts set last_seen_at = clock_timestamp() - interval '90 seconds' where name = 'ha'`);
    const explained = await explainJob(full, b);
    expect(explained.summary).toBe("first waits: 1 jobs are in work, the limit is 1; it begins when one has ended");
    expect(explained.stages[0]?.gates.map((g) => [g.rule, g.verdict])).toEqual([
      ["fleet-jobs", "closed"],
      ["user-jobs", "open"],
    ]);
    expect(explained.stages[0]?.hosts).toMatchObject([
      { host: "ha", rule: "suspect", reason: expect.stringMatching(/^nothing was heard from it for 1 m 30 s/) },
      { host: "hb", rule: "intent" },
    ]);
  });

  test("the queue by lane, with the oldest wait", async () => {
    await engine.submit({ user_id: "a" });
    await engine.submit({ user_id: "b", complexity: "premium" });
    const cancelled = await engine.submit({ user_id: "c" });
    await cancelJob(engine.ctx, cancelled, "no");
    const queue = await readQueue(engine.ctx.db.direct);
    expect(queue).toMatchObject({
      depth: 2,
      processing: 0,
      scheduled: 0,
      day: { enqueued: 3, cancelled: 1, completed: 0 },
    });
    expect(queue.lanes.map((l) => [l.complexity, l.queued, l.processing])).toEqual([
      ["premium", 1, 0],
      ["simple", 1, 0],
    ]);
    expect(queue.oldestSeconds).toBeGreaterThanOrEqual(0);
  });

  test("outputs that a host made itself are known as near to what needs them", async () => {
    const h = await engine.host("ha");
    const id = await engine.submit();
    const [offer] = await engine.offers(h);
    if (offer) {
      await engine.accept(h, offer);
      const sha256 = "a".repeat(64);
      await engine.sql(`insert into artifacts (sha256, size_bytes) values ($1, 1000)`, [sha256]);
      await engine.finish(h.hostId, offer);
      await engine.sql(
        `insert into files (job_id, stage, fence, name, sha256, media_type) values ($1, 'first', $2, 'x', $3, 'text/plain')`,
        [id, offer.fence, sha256],
      );
    }
    const stages = (await engine.detail(id)).stages;
    const near = await inputsAtHosts(
      engine.ctx.db.direct,
      stages.map((s) => s.id),
    );
    expect(near).toEqual(new Map([[stages[1]?.id, new Map([[h.hostId, 1000]])]]));
  });

  test("[S150] the views of the requirements still answer, with the order and the money of the tables", async () => {
    const h = await engine.host("ha");
    const id = await engine.submit({ priority: 7, complexity: "complex" });
    await work(h, id);
    await engine.sql(`insert into analytics_data (channel_id, metric_type, metric_value) values ('c', 'views', '1')`);
    expect(
      await engine.sql(
        `select id, priority, status, complexity, retry_count, error_log, estimated_cost::float8 as cost from video_queue`,
      ),
    ).toEqual([
      { id, priority: 7, status: "completed", complexity: "complex", retry_count: 0, error_log: [], cost: 1 },
    ]);
    const [row] = await engine.sql<{ seconds: number }>(
      `select processing_time_seconds::float8 as seconds from video_queue`,
    );
    expect(row?.seconds).toBeGreaterThanOrEqual(0);
    const [money] = await engine.sql<{ views: number; ledger: number }>(
      `select (select coalesce(sum(amount), 0) from pipeline_costs where video_id = $1)::float8 as views, (select spent_micros from jobs where id = $1)::float8 / 1e6 as ledger`,
      [id],
    );
    expect(money?.views).toBeCloseTo(money?.ledger ?? -1, 6);
    expect(await engine.sql(`select channel_id from analytics_data`)).toEqual([{ channel_id: "c" }]);
  });

  test("lists by owner, pipeline and state read an index in their order and sort nothing", async () => {
    await engine.sql(
      `insert into jobs (id, pipeline, pipeline_version, user_id, channel_id, request, estimated_micros, halt_micros, rank, state, created_at, started_at, ended_at)
       select 'v_' || lpad(n::text, 26, '0'), 'p' || n % 50, 1, 'u' || n % 500, 'c' || n % 500, '{}', 0, 0, n, 'cancelled', clock_timestamp() - n * interval '1 minute',
              clock_timestamp(), clock_timestamp() from generate_series(1, 20000) n`,
    );
    await engine.sql(`analyze jobs`);
    const seen: { sql: string; params: readonly unknown[] }[] = [];
    const { direct } = engine.ctx.db;
    const tx: typeof direct = {
      query: (sql, params = []) => {
        seen.push({ sql, params });
        return direct.query(sql, params);
      },
    };
    const before = { createdAt: new Date(), id: "v_" };
    for (const filter of [
      {},
      { userId: "u7" },
      { channelId: "c7" },
      { pipeline: "p7" },
      { state: "cancelled" as const },
      { userId: "u7", before },
    ])
      expect((await listJobs(tx, { ...filter, limit: 10 })).length).toBe(10);
    for (const { sql, params } of seen) {
      const plan = (await engine.sql<{ "QUERY PLAN": string }>(`explain ${sql}`, params))
        .map((r) => r["QUERY PLAN"])
        .join("\n");
      expect(plan).toMatch(/Index Scan using jobs_(recent|state_recent|user_recent|channel_recent|pipeline_recent)/);
      expect(plan).not.toMatch(/Seq Scan|Sort/);
    }
    await engine.sql(`delete from jobs`);
  });
});
