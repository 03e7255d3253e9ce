// Many at once: ends, accepts and placements in one transaction do what they would do one by one, with as many statements as one.
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { acceptOffers } from "../operations/accept-offer.ts";
import { cancelJob } from "../operations/cancel-job.ts";
import { type Finish, finishAttempts } from "../operations/finish-attempt.ts";
import { placeStages } from "../operations/place-stages.ts";
import { relayEvents } from "../operations/relay-events.ts";
import { type OfferRecord, takeOffersOf } from "../operations/take-offers.ts";
import type { Database } from "../store/database.ts";
import { type Engine, openEngine } from "./engine.ts";
import { brokenInvariants } from "./invariants.ts";

let engine: Engine;
beforeEach(async () => {
  engine = await openEngine({ settings: { queueDepth: 1_000 } });
});
afterEach(async () => {
  expect(await brokenInvariants(engine.sql)).toEqual([]);
  await engine.close();
});

const end = (hostId: string, offer: OfferRecord, change: Partial<Finish> = {}): Finish => ({
  attemptId: offer.attemptId,
  fence: offer.fence,
  hostId,
  outcome: "succeeded",
  result: { ok: true },
  outputs: [],
  failure: null,
  usage: [],
  ...change,
});
const states = async (id: string) => (await engine.detail(id)).stages.map((s) => s.state);
const accept = (h: { hostId: string; epoch: bigint }, offers: readonly OfferRecord[]) =>
  acceptOffers(
    engine.ctx,
    offers.map(({ attemptId, fence }) => ({ ...h, attemptId, fence })),
  );
const crowd = async () => {
  const h = await engine.host("a", { cores: 64, memoryBytes: 2 ** 40 });
  const jobs: string[] = [];
  for (let i = 0; i < 12; i++) jobs.push(await engine.submit());
  const offers = await engine.offers(h);
  expect(offers.length).toBe(12);
  return { h, jobs, offers };
};
/** Counts the statements of everything that goes through the database's one door. */
const counting = (db: Database) => {
  const count = { statements: 0 };
  return {
    count,
    db: {
      ...db,
      transaction: <T>(act: Parameters<Database["transaction"]>[0]) =>
        db.transaction((tx) =>
          act({
            query: (sql, params) => {
              count.statements++;
              return tx.query(sql, params);
            },
          }),
        ) as Promise<T>,
    } as Database,
  };
};

test("twelve accepts and twelve ends take as many statements as one", async () => {
  const { h, jobs, offers } = await crowd();
  const { db, count } = counting(engine.ctx.db);
  const ctx = { ...engine.ctx, db };
  const [one, ...rest] = offers;
  const spent = async (act: () => Promise<unknown>) => {
    const before = count.statements;
    await act();
    return count.statements - before;
  };
  const as = (list: readonly OfferRecord[]) => list.map(({ attemptId, fence }) => ({ ...h, attemptId, fence }));
  const first = one ? [one] : [];
  expect(await spent(() => acceptOffers(ctx, as(rest)))).toBe(await spent(() => acceptOffers(ctx, as(first))));
  const ends = (list: readonly OfferRecord[]) => list.map((offer) => end(h.hostId, offer));
  expect(await spent(() => finishAttempts(ctx, ends(rest)))).toBe(await spent(() => finishAttempts(ctx, ends(first))));
  for (const id of jobs) expect(await states(id)).toEqual(["succeeded", "ready"]);
});

test("in one batch a success, a failure, a refusal and a stale end each get their own answer and their own fate", async () => {
  const { h, jobs, offers } = await crowd();
  expect(await accept(h, offers.slice(0, 10))).toEqual(Array(10).fill(true));
  const failure = { failureClass: "encoder_failed", severity: "", message: "it broke" };
  const [a, b, c, d] = offers as [OfferRecord, OfferRecord, OfferRecord, OfferRecord];
  const refused = offers[10] as OfferRecord;
  const answers = await finishAttempts(engine.ctx, [
    end(h.hostId, a),
    end(h.hostId, b, { outcome: "failed", failure }),
    end(h.hostId, refused, { outcome: "refused" }),
    end(h.hostId, { ...c, fence: c.fence + 1_000n }),
    end("h_OTHER", d),
    end(h.hostId, a),
    end(h.hostId, a, { outcome: "failed", failure }),
    end(h.hostId, { ...a, attemptId: "a_unknown" }),
  ]);
  expect(answers.map((x) => x.applied)).toEqual([true, true, true, false, false, true, false, false]);
  const of = async (offer: OfferRecord) => (await states(offer.jobId))[0];
  expect([await of(a), await of(b), await of(refused), await of(c), await of(d)]).toEqual([
    "succeeded",
    "waiting",
    "ready",
    "running",
    "running",
  ]);
  expect(jobs).toContain(a.jobId);
});

test("two stages of one job that end in one batch unlock what needs both, once", async () => {
  const h = await engine.host("a", { cores: 64, memoryBytes: 2 ** 40, providers: ["tts.espeak"] });
  const id = await engine.submit({ pipeline: "narrated-video", request: { script: "Hello there." } });
  const [script] = (await engine.offers(h)) as [OfferRecord];
  await accept(h, [script]);
  await finishAttempts(engine.ctx, [end(h.hostId, script)]);
  const both = await engine.offers(h);
  expect(both.map((o) => o.stage).sort()).toEqual(["audio_synthesis", "media_collection"]);
  await accept(h, both);
  expect(
    (
      await finishAttempts(
        engine.ctx,
        both.map((o) => end(h.hostId, o)),
      )
    ).every((x) => x.applied),
  ).toBe(true);
  const events = await engine.sql<{ n: number }>(
    `select count(*)::int as n from events where job_id = '${id}' and type = 'stage.ready' and body ->> 'stage' = 'video_rendering'`,
  );
  expect(events[0]?.n).toBe(1);
  const detail = await engine.detail(id);
  expect(detail.stages.find((s) => s.name === "video_rendering")?.state).toBe("ready");
  expect(detail.stages.find((s) => s.name === "video_rendering")?.openNeeds).toBe(0);
});

test("one of two siblings fails for good while the other succeeds in the same batch: the job ends failed, once", async () => {
  const h = await engine.host("a", { cores: 64, memoryBytes: 2 ** 40, providers: ["tts.espeak"] });
  const id = await engine.submit({ pipeline: "narrated-video", request: { script: "Hello there." } });
  const [script] = (await engine.offers(h)) as [OfferRecord];
  await accept(h, [script]);
  await finishAttempts(engine.ctx, [end(h.hostId, script)]);
  const both = await engine.offers(h);
  await accept(h, both);
  const failure = { failureClass: "input_invalid", severity: "", message: "unusable" };
  await finishAttempts(
    engine.ctx,
    both.map((o, i) => end(h.hostId, o, i === 0 ? { outcome: "failed", failure } : {})),
  );
  const { job } = await engine.detail(id);
  expect([job.state, job.heldMicros]).toEqual(["failed", 0n]);
  const [terminal] = await engine.sql<{ n: number }>(
    `select count(*)::int as n from events where job_id = '${id}' and is_terminal`,
  );
  expect(terminal?.n).toBe(1);
});

test("[S143] jobs that end together each write what they cost and how long they took, and announce it once", async () => {
  const { h, jobs, offers } = await crowd();
  await accept(h, offers);
  await finishAttempts(
    engine.ctx,
    offers.map((o) => end(h.hostId, o)),
  );
  const last = await engine.offers(h);
  await accept(h, last);
  const usage = [{ service: "openai", provider: "openai", unit: "token", quantity: 100_000 }];
  await engine.sql(`update jobs set started_at = started_at - interval '90 seconds'`);
  await finishAttempts(
    engine.ctx,
    last.map((o) => end(h.hostId, o, { usage })),
  );
  const heard: { video_id: string; cost: number; metadata: { processing_time: number; stages: object } }[] = [];
  await engine.ctx.bus.subscribe("pipeline:video.completed", (message) => void heard.push(message as never));
  while ((await relayEvents(engine.ctx)).length > 0);
  await vi.waitFor(() => expect(heard.length).toBe(jobs.length));
  const rows = await engine.sql<{ id: string; status: string; cost: string; seconds: string }>(
    `select id, status, actual_cost as cost, processing_time_seconds as seconds from video_queue order by id`,
  );
  expect(rows.map((row) => row.id)).toEqual([...jobs].sort());
  for (const row of rows) {
    const message = heard.filter((m) => m.video_id === row.id);
    expect(message.length).toBe(1);
    expect([row.status, message[0]?.cost]).toEqual(["completed", Number(row.cost)]);
    expect(Number(row.cost)).toBeGreaterThan(0.1);
    expect(Number(row.seconds)).toBeGreaterThan(90);
    expect(message[0]?.metadata.processing_time).toBeCloseTo(Number(row.seconds), 2);
    expect(Object.keys(message[0]?.metadata.stages ?? {})).toEqual(["first", "second"]);
  }
});

test("accepts of an old session, of another host and of a cancelled job are refused beside good ones", async () => {
  const { h, offers } = await crowd();
  const [a, b, c, d] = offers as [OfferRecord, OfferRecord, OfferRecord, OfferRecord];
  await cancelJob(engine.ctx, d.jobId, "");
  const answers = await acceptOffers(engine.ctx, [
    { ...h, attemptId: a.attemptId, fence: a.fence },
    { ...h, epoch: h.epoch - 1n, attemptId: b.attemptId, fence: b.fence },
    { hostId: "h_OTHER", epoch: h.epoch, attemptId: c.attemptId, fence: c.fence },
    { ...h, attemptId: d.attemptId, fence: d.fence },
    { ...h, attemptId: a.attemptId, fence: a.fence },
  ]);
  expect(answers).toEqual([true, false, false, false, true]);
});

test("each host takes its own offers in one turn, and a session that is not the newest is told so", async () => {
  const [a, b] = [await engine.host("a"), await engine.host("b")];
  for (let i = 0; i < 6; i++) await engine.submit();
  await placeStages(engine.ctx);
  const [ofA, ofB, ofOld, again] = await takeOffersOf(engine.ctx, [a, b, { ...a, epoch: a.epoch - 1n }, a]);
  expect([Array.isArray(ofA) && ofA.length > 0, Array.isArray(ofB) && ofB.length > 0]).toEqual([true, true]);
  expect(String(ofOld)).toContain("not its newest");
  expect(again).toEqual([]);
});
