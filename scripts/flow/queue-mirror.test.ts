// The queue as older tools see it in a real Redis, through losses of Redis and of leaders.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Redis } from "ioredis";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createQueueMirror, mirrorKeys, type QueueMirror } from "../../control-plane/src/bus/queue-mirror.ts";
import { mirrorQueue } from "../../control-plane/src/operations/mirror-queue.ts";
import { relayEvents } from "../../control-plane/src/operations/relay-events.ts";
import { type Engine, openEngine } from "../../control-plane/src/testing/engine.ts";
import { type OutsideServer, startOutside } from "./outside.ts";

let folder: string;
let server: OutsideServer;
let client: Redis;
let engine: Engine;
let mirror: QueueMirror;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "renderplane-mirror-"));
  server = await startOutside("redis", folder);
  client = new Redis(server.url, { retryStrategy: () => 50 });
  client.on("error", () => {});
  engine = await openEngine();
  mirror = createQueueMirror({ url: server.url });
  await mirror.start();
  await reachable();
});
afterAll(async () => {
  client.disconnect();
  await mirror.stop();
  await engine.close();
  await server.stop();
  await rm(folder, { recursive: true, force: true });
});

const reachable = async () => {
  const end = performance.now() + 20_000;
  while (!mirror.isReachable()) {
    if (performance.now() > end) throw new Error("Redis was not reached within 20 s");
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
};
const turn = async () => {
  while ((await relayEvents(engine.ctx)).length > 0);
  while (await mirrorQueue(engine.ctx, mirror));
};
const counters = () => client.hgetall(mirrorKeys.counters);

test("[S137] Redis shows the queue in its order, what is in work and the counters; PostgreSQL stays the truth", async () => {
  const low = await engine.submit({ priority: 2 });
  const high = await engine.submit({ priority: 9 });
  const middle = await engine.submit({ priority: 5 });
  await turn();
  // Highest score first, as zpopmax takes them.
  expect(await client.zrevrange(mirrorKeys.queued, 0, -1)).toEqual([high, middle, low]);
  expect(await client.smembers(mirrorKeys.processing)).toEqual([]);
  expect(await counters()).toMatchObject({ queue_depth: "3", processing_count: "0", total_enqueued: "3" });

  const host = await engine.host("a1");
  const offers = await engine.offers(host);
  for (const offer of offers) await engine.accept(host, offer);
  await turn();
  const working = (await engine.sql<{ id: string }>("select id from jobs where state = 'processing' order by id")).map(
    (job) => job.id,
  );
  expect(working.length).toBeGreaterThan(0);
  expect((await client.smembers(mirrorKeys.processing)).sort()).toEqual(working);

  // A tool that takes from the mirror takes nothing from the queue.
  await client.zpopmax(mirrorKeys.queued, 3);
  await client.del(mirrorKeys.processing);
  await turn();
  expect((await client.smembers(mirrorKeys.processing)).sort()).toEqual(working);
});

test("[S137] a start wipes nothing and counts nothing twice, and an empty Redis is right again after one turn", async () => {
  const before = await counters();
  const restarted = createQueueMirror({ url: server.url });
  await restarted.start();
  while (!restarted.isReachable()) await new Promise((resolve) => setTimeout(resolve, 10));
  await mirrorQueue(engine.ctx, restarted);
  await restarted.stop();
  expect(await counters()).toEqual(before);
  // As a leader that slept between reading and counting: its events were counted by the next one.
  await mirror.count({ after: 0n, upTo: 1n, enqueued: 100, processed: 0, failed: 0 });
  expect(await counters()).toEqual(before);

  await server.stop("SIGKILL");
  await server.start();
  await reachable();
  expect(await counters()).toEqual({});
  await turn();
  expect(await counters()).toEqual(before);
});
