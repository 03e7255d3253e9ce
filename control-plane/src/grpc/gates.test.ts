// The gates of the edge: how many may arrive in a second, how much one host may say, how often progress is passed on, and when
// the replica is overloaded.
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { silentLogger } from "@renderplane/proto/kernel/process/logger.ts";
import { expect, test } from "vitest";
import { createGate, createHostGate, hellosPerHost } from "./admission.ts";
import { createInboundLimit, messagesPerSecond } from "./inbound.ts";
import { createPressure, lateAboveMs } from "./pressure.ts";
import { createProgressGate } from "./progress-gate.ts";

const refusal = (act: Promise<void>) =>
  act.then(
    () => undefined,
    (error: unknown) => error as RenderplaneError,
  );

test("a second's worth is admitted at once, the next is sent away for 1 to 10 s, and time opens the gate again", async () => {
  let now = 0;
  const gate = createGate(3, "sessions", { now: () => now });
  for (let n = 0; n < 3; n++) await gate.admit();
  const refused = await refusal(gate.admit());
  expect(refused).toMatchObject({ code: "unavailable" });
  expect(refused?.retryAfterMs).toBeGreaterThanOrEqual(1000);
  expect(refused?.retryAfterMs).toBeLessThanOrEqual(10_000);
  now += 334;
  await gate.admit();
  expect(await refusal(gate.admit())).toBeInstanceOf(RenderplaneError);
  now += 60_000;
  for (let n = 0; n < 3; n++) await gate.admit();
  expect(await refusal(gate.admit())).toBeInstanceOf(RenderplaneError);
  expect(gate.sentAway()).toBe(3);
});

test("a herd waits its turn in the gate up to its limit; what would wait longer is sent away at once", async () => {
  const gate = createGate(100, "sessions", { maxWaitMs: 300 });
  const began = performance.now();
  const outcomes = await Promise.all(
    Array.from({ length: 200 }, async () => ({ refused: await refusal(gate.admit()), at: performance.now() - began })),
  );
  const admitted = outcomes.filter(({ refused }) => refused === undefined);
  // A second's worth at once and 300 ms of waiting at 100 a second.
  expect(admitted.length).toBeGreaterThanOrEqual(130);
  expect(admitted.length).toBeLessThan(140);
  expect(gate.sentAway()).toBe(200 - admitted.length);
  expect(Math.max(...admitted.map(({ at }) => at))).toBeGreaterThan(250);
});

test("one host that comes again and again is sent away, and others are not", () => {
  let now = 0;
  const admit = createHostGate(() => now);
  for (let n = 0; n < hellosPerHost.burst; n++) admit("h_1");
  expect(() => admit("h_1")).toThrow(RenderplaneError);
  admit("h_2");
  now += 1000;
  admit("h_1");
});

test("a host may talk in bursts, and is cut off when it sends more than its share for long", () => {
  let now = 0;
  const limit = createInboundLimit(() => now);
  for (let second = 0; second < 5; second++) {
    for (let n = 0; n < messagesPerSecond / 100; n++) limit(100, 1000);
    now += 1000;
  }
  expect(() => limit(10_000, 0)).toThrow(expect.objectContaining({ code: "rate_limited" }));
  const large = createInboundLimit(() => now);
  expect(() => {
    for (let n = 0; n < 20; n++) large(1, 1024 * 1024);
  }).toThrow(expect.objectContaining({ code: "rate_limited" }));
});

test("pressure begins above its limit, ends well below it, and is told once an episode", async () => {
  let late = 0;
  const told: string[] = [];
  const keep = (_: unknown, text: string) => told.push(text);
  const log = Object.assign(silentLogger(), { warn: keep, info: keep });
  const pressure = createPressure({ log, lateness: () => late });
  const seen: boolean[] = [];
  for (const ms of [150, 250, 300, 150, 90, 150]) {
    late = ms;
    await pressure.rhythm.runOnce();
    seen.push(pressure.isHigh());
  }
  expect(seen).toEqual([false, true, true, true, false, false]);
  pressure.storeTook(1500);
  await pressure.rhythm.runOnce();
  expect(pressure.isHigh()).toBe(true);
  late = 0;
  await pressure.rhythm.runOnce();
  expect(pressure.isHigh()).toBe(false);
  expect(told).toEqual([
    "overloaded: fewer heartbeats are asked for and offers pause",
    "no longer overloaded",
    "overloaded: fewer heartbeats are asked for and offers pause",
    "no longer overloaded",
  ]);
  await pressure.rhythm.stop();
});

test("a busy event loop is seen by its own monitor", async () => {
  const pressure = createPressure({ log: silentLogger() });
  await pressure.rhythm.start();
  await pressure.rhythm.runOnce();
  for (let n = 0; n < 3; n++) {
    const end = performance.now() + lateAboveMs + 100;
    while (performance.now() < end);
    await new Promise((resolve) => setTimeout(resolve, 30));
  }
  await pressure.rhythm.runOnce();
  expect(pressure.isHigh()).toBe(true);
  expect(pressure.loopDelayP99Ms()).toBeGreaterThan(lateAboveMs);
  await pressure.rhythm.stop();
});

test("the first progress passes at once, then the newest of each attempt when its time has come", () => {
  let now = 0;
  const published: string[] = [];
  const gate = createProgressGate<string>({ intervalMs: 500, publish: (p) => published.push(p), now: () => now });
  gate.offer("a", "a1");
  gate.offer("a", "a2");
  gate.offer("a", "a3");
  gate.offer("b", "b1");
  expect(published).toEqual(["a1", "b1"]);
  gate.flush();
  now = 500;
  gate.flush();
  gate.flush();
  expect(published).toEqual(["a1", "b1", "a3"]);
});
