// Ranges of time: they are ordered, grow with what stands in front, and say what they are made of.
import fc from "fast-check";
import { expect, test } from "vitest";
import { durationsOf, outlookOf, type QueueFacts, waitOf } from "./eta.ts";

const now = new Date("2026-01-01T00:00:00Z");
const lane = durationsOf({ seconds: { low: 60, mid: 100, high: 200 } }, 600);
const queued = { state: "queued", startedAt: null, notBefore: null } as const;
const seconds = (date: Date | undefined) => ((date?.getTime() ?? 0) - now.getTime()) / 1000;

test("without history the pipeline's target speaks, and it is said", () => {
  expect(durationsOf(undefined, 600)).toEqual({ low: 300, mid: 600, high: 600, basis: "target" });
  expect(lane.basis).toBe("history");
});

test.each<[string, QueueFacts, number, number]>([
  ["an empty fleet begins at once", { ahead: 0, processing: 0, limit: 7 }, 0, 0],
  ["a free place, but the hosts may be busy", { ahead: 0, processing: 3, limit: 7 }, 0, 200],
  ["behind a full fleet of one", { ahead: 0, processing: 1, limit: 1 }, 60, 200],
  ["ten ahead, two side by side", { ahead: 10, processing: 2, limit: 2 }, 330, 1100],
])("%s", (_, facts, low, high) => {
  expect(waitOf(facts, lane)).toEqual({ low, high });
});

test("a job that may not begin yet begins then, and one in work ends from its start on", () => {
  const later = new Date(now.getTime() + 3_600_000);
  const outlook = outlookOf({ ...queued, notBefore: later }, { ahead: 0, processing: 0, limit: 7 }, lane, now);
  expect([seconds(outlook.start?.earliest), seconds(outlook.finish?.latest)]).toEqual([3600, 3800]);
  const began = new Date(now.getTime() - 100_000);
  const working = outlookOf(
    { state: "processing", startedAt: began, notBefore: null },
    { ahead: 0, processing: 1, limit: 7 },
    lane,
    now,
  );
  expect(working.start).toBeNull();
  expect([seconds(working.finish?.earliest), seconds(working.finish?.latest)]).toEqual([0, 100]);
});

test("ranges are ordered and never shrink when more stands in front", () => {
  const facts = fc.record({ ahead: fc.nat(500), processing: fc.nat(50), limit: fc.integer({ min: 1, max: 50 }) });
  fc.assert(
    fc.property(facts, (f) => {
      const q = { ...f, processing: Math.min(f.processing, f.limit) };
      const [one, more] = [waitOf(q, lane), waitOf({ ...q, ahead: q.ahead + 1 }, lane)];
      expect(one.low).toBeLessThanOrEqual(one.high);
      expect(more.low).toBeGreaterThanOrEqual(one.low);
      expect(more.high).toBeGreaterThanOrEqual(one.high);
    }),
  );
});
