// A million stages wait and two hundred thousand have ended: a story goes through every operation and every loop, and no statement
// of it reads a whole table or the whole queue. What may, and why, is named here.
import { afterAll, beforeAll, expect, test } from "vitest";
import type { QueueMirror } from "../bus/queue-mirror.ts";
import { acceptOffers } from "../operations/accept-offer.ts";
import { cancelJob } from "../operations/cancel-job.ts";
import { closeSession } from "../operations/close-session.ts";
import type { Context } from "../operations/context.ts";
import { estimateJob } from "../operations/estimate-job.ts";
import { explainJob } from "../operations/explain-job.ts";
import { finishAttempts } from "../operations/finish-attempt.ts";
import { judgeValves } from "../operations/judge-valves.ts";
import { mirrorQueue } from "../operations/mirror-queue.ts";
import { openSession } from "../operations/open-session.ts";
import { placeStages } from "../operations/place-stages.ts";
import { pruneHistory } from "../operations/prune-history.ts";
import { beatReaper, reapLeases, restartCountdown } from "../operations/reap-leases.ts";
import { relayEvents } from "../operations/relay-events.ts";
import { recordHealth, renewLeases } from "../operations/renew-leases.ts";
import { parseSubmission, submitJob } from "../operations/submit-job.ts";
import { takeOffersOf, takeStopsOf } from "../operations/take-offers.ts";
import { viewHost, viewHosts } from "../operations/view-host.ts";
import { viewQueue } from "../operations/view-queue.ts";
import { wakeStages } from "../operations/wake-stages.ts";
import { watchDeadlines } from "../operations/watch-deadlines.ts";
import { watchHosts } from "../operations/watch-hosts.ts";
import { watchReplicas } from "../operations/watch-replicas.ts";
import { refusedSessions, waitingHosts } from "../operations/watch-sessions.ts";
import { type Engine, inventory, openEngine } from "../testing/engine.ts";
import { eventsAfter, lastEventSeq } from "./events.ts";
import { listFiles } from "./files.ts";
import { liveAllocations } from "./hosts.ts";
import { readJobDetail } from "./job-detail.ts";
import { countJobs, listJobs } from "./jobs.ts";
import { countStages } from "./stages.ts";
import { explaining } from "./testing-plans.ts";
import { endedJobs, fillDatabase, queuedJobs, stagesPerJob } from "./testing-scale.ts";

/** Tables that grow with the queue or the history. */
const guarded = /^(jobs|stages|attempts|events|ledger|files|artifacts)(_|$)/;
/** More than any window, page or batch of the product, and far below the queue. */
const mostRows = 12_000;

/** Statements that may read more, with the reason; a part of their text. */
const exceptions: readonly { readonly text: string; readonly reason: string }[] = [
  {
    text: `from (select 1 from jobs where state = 'queued' limit $1) queued`,
    reason:
      "the depth of the queue, up to its limit: a submission asks for it once a second, an estimate each time; index only",
  },
  {
    text: `(select count(*) from jobs where state = 'queued')::int as depth`,
    reason: "the depth of the queue for a person who looks at the queue; index only",
  },
  {
    text: `select state, count(*)::int as count from jobs where state in ('queued', 'processing') group by state`,
    reason: "the levels of jobs, once a scrape of the metrics; index only",
  },
  {
    text: `select s.state, count(*)::int as count from jobs j join stages s`,
    reason: "the levels of stages, once a scrape of the metrics: every open stage, by way of the open jobs",
  },
];

let engine: Engine;
let ctx: Context;
let explained: ReturnType<typeof explaining>["explained"];

beforeAll(async () => {
  engine = await openEngine({
    settings: {
      queueDepth: 10_000_000,
      concurrency: { jobs: 20, jobsPerUser: 10, attemptsPerProvider: new Map([["tts.openai", 1]]) },
    },
  });
  await fillDatabase(engine.ctx.db, { headRank: BigInt(Date.now()) - 500_000_000n, inventory });
  const watched = explaining(engine.ctx.db);
  ctx = { ...engine.ctx, db: watched.db };
  explained = watched.explained;
}, 400_000);
afterAll(() => engine.close());

const submit = async (body: Record<string, unknown> = {}) =>
  (
    await submitJob(ctx, {
      ...parseSubmission({ pipeline: "pair", user_id: "story", priority: 9, ...body }, ctx.pipelines),
      uploads: [],
      idempotencyKey: `key-${Math.random()}`,
    })
  ).jobId;

const mirror: QueueMirror = {
  name: "mirror",
  start: async () => {},
  stop: async () => {},
  isReachable: () => true,
  write: async () => {},
  countedUpTo: async () => lastEventSeq(engine.ctx.db.direct),
  count: async () => {},
};

/** Every operation and every turn of a loop once, and what a person would look at. */
const story = async () => {
  const host = await engine.host("hs", { cores: 3 });
  const session = (attempts: Parameters<typeof openSession>[1]["attempts"]) =>
    openSession(ctx, {
      hostId: host.hostId,
      serial: `serial-${host.hostId}`,
      instanceId: "i",
      agentVersion: "1",
      protocolMin: 1,
      protocolMax: 1,
      inventory: { ...inventory, cores: 3 },
      attempts,
    });
  const { epoch } = await session([]);
  const h = { hostId: host.hostId, epoch };
  const jobs = [await submit(), await submit({ user_id: "b" }), await submit({ user_id: "c" })];
  const later = await submit({ user_id: "d", not_before: new Date(Date.now() + 3_600_000).toISOString() });
  await submit({ user_id: "e", deadline: new Date(Date.now() + 3_600_000).toISOString(), on_deadline: "cancel" });
  await placeStages(ctx);
  await waitingHosts(ctx);
  const [taken] = await takeOffersOf(ctx, [h]);
  const offers = Array.isArray(taken) ? taken : [];
  expect(offers.map((offer) => offer.jobId).sort()).toEqual([...jobs].sort());
  const held = offers.map((offer) => ({ ...h, attemptId: offer.attemptId, fence: offer.fence }));
  const [a, b, c] = held;
  if (!a || !b || !c) throw new Error("the story needs three offers");
  expect(await acceptOffers(ctx, held)).toEqual([true, true, true]);
  await renewLeases(
    ctx,
    held.map((lease) => ({ ...lease, progress: 0.5, step: "half", etaMs: 1n })),
  );
  await recordHealth(ctx, [{ ...h, health: {} }]);
  const end = { hostId: h.hostId, result: {}, outputs: [], failure: null, usage: [] };
  const file = await ctx.artifacts.ingest(bytes("story"), 100);
  const output = { ...file, name: "out.mp4", mediaType: "video/mp4" };
  await finishAttempts(ctx, [
    { ...end, attemptId: a.attemptId, fence: a.fence, outcome: "succeeded", outputs: [output] },
    { ...end, attemptId: b.attemptId, fence: b.fence, outcome: "refused" },
  ]);
  await cancelJob(ctx, offers[2]?.jobId ?? "", "not wanted");
  await takeStopsOf(ctx, [h]);
  await engine.sql(`update attempts set lease_until = clock_timestamp() - interval '1 hour' where id = $1`, [
    c.attemptId,
  ]);
  await beatReaper(ctx);
  await judgeValves(ctx, 60_000);
  await reapLeases(ctx);
  await restartCountdown(ctx);
  await engine.sql(`update stages set run_at = clock_timestamp() where job_id = $1 and state = 'waiting'`, [later]);
  await wakeStages(ctx);
  await placeStages(ctx);
  const [more] = await takeOffersOf(ctx, [h]);
  for (const offer of Array.isArray(more) ? more : []) {
    await acceptOffers(ctx, [{ ...h, attemptId: offer.attemptId, fence: offer.fence }]);
    const failure = { failureClass: "input_invalid", severity: "", message: "unusable" } as const;
    await finishAttempts(ctx, [{ ...end, attemptId: offer.attemptId, fence: offer.fence, outcome: "failed", failure }]);
  }
  await relayEvents(ctx);
  await engine.sql(`update jobs set deadline_at = clock_timestamp() where deadline_at is not null`);
  await watchDeadlines(ctx);
  for (const act of [watchHosts, watchReplicas, waitingHosts, viewHosts, viewQueue]) await act(ctx);
  await refusedSessions(ctx, { windowMs: 60_000 });
  await viewHost(ctx, "hs");
  await estimateJob(ctx, { pipeline: "pair" });
  for (const id of [...jobs, later]) await explainJob(ctx, id);
  await look(jobs[0] ?? "");
  await mirrorQueue(ctx, mirror);
  await session(held.map(({ attemptId, fence }) => ({ attemptId, fence, state: "running" as const })));
  await closeSession(ctx, h);
  expect((await pruneHistory(ctx)).jobs).toBe(100);
};

const look = async (jobId: string) => {
  const { direct } = ctx.db;
  await readJobDetail(direct, jobId);
  await listFiles(direct, [jobId]);
  await liveAllocations(direct);
  const before = { createdAt: new Date(), id: jobId };
  for (const filter of [
    {},
    { userId: "u1" },
    { channelId: "c1" },
    { pipeline: "pair" },
    { state: "completed" as const },
    { state: "queued" as const },
  ])
    for (const from of [{}, { before }]) await listJobs(direct, { ...filter, ...from, limit: 50 });
  const last = await lastEventSeq(direct);
  await eventsAfter(direct, { seq: last - 10n, limit: 500 });
  await countStages(direct);
  await countJobs(direct);
};

async function* bytes(text: string) {
  yield Buffer.from(text);
}

test("with a million stages in the queue no statement reads a whole table or the whole queue", async () => {
  await story();
  const all = explained();
  // The story itself must be whole: fewer statements than this means that a part of it did not happen.
  expect(all.length).toBeGreaterThan(70);
  const wrong = all.flatMap(({ sql, scans, ms }) => {
    if (exceptions.some((one) => sql.includes(one.text))) return [];
    const bad = scans.filter((s) => guarded.test(s.relation) && (s.node === "Seq Scan" || s.rows > mostRows));
    return bad.length === 0 ? [] : [{ sql, ms, bad }];
  });
  expect(wrong).toEqual([]);
}, 200_000);

test("every exception is a statement that is still sent", () => {
  const all = explained();
  expect(exceptions.filter((one) => !all.some(({ sql }) => sql.includes(one.text)))).toEqual([]);
});

test("the database was as large as is said", async () => {
  const [row] = await engine.sql<{ stages: number }>(
    `select reltuples::int as stages from pg_class where relname = 'stages'`,
  );
  expect(row?.stages).toBeGreaterThan((queuedJobs + endedJobs) * stagesPerJob * 0.99);
});
