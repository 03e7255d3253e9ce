// Live progress gives way: while the database is slow it is dropped, so that leases and submissions get the connections.
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Engine, openEngine } from "../testing/engine.ts";
import { progressPublisher } from "./publish-progress.ts";

let engine: Engine;
beforeAll(async () => {
  engine = await openEngine();
});
afterAll(() => engine.close());

test("a few are in work at a time, the others are dropped, and it goes on when the database answers", async () => {
  const h = await engine.host("a");
  await engine.submit();
  const [offer] = await engine.offers(h);
  if (!offer) throw new Error("nothing was offered");
  await engine.accept(h, offer);
  const { db, bus } = engine.ctx;
  const asked = Promise.withResolvers<void>();
  const answer = Promise.withResolvers<void>();
  let queries = 0;
  const direct: typeof db.direct = {
    query: async (sql, params) => {
      queries++;
      asked.resolve();
      await answer.promise;
      return db.direct.query(sql, params);
    },
  };
  const publish = progressPublisher({ ...engine.ctx, db: { ...db, direct } });
  const heard: unknown[] = [];
  const all = Promise.withResolvers<void>();
  bus.subscribe("pipeline:progress", (message) => {
    heard.push(message);
    if (heard.length === 5) all.resolve();
  });
  const live = { attemptId: offer.attemptId, hostId: h.hostId, fraction: 0.5, speed: 1, etaMs: null, step: "" };
  for (let i = 0; i < 100; i++) publish(live);
  await asked.promise;
  expect(queries).toBe(4);
  answer.resolve();
  while (heard.length < 4) await new Promise((resolve) => setImmediate(resolve));
  publish(live);
  await all.promise;
  expect(heard[4]).toMatchObject({ video_id: offer.jobId, stage_progress: 0.5 });
});
