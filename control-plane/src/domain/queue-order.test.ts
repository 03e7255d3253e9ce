// The order of the queue as a number: what moves a job forward and back, and the bounds that make everybody's turn come.
import fc from "fast-check";
import { expect, test } from "vitest";
import { baseOf, maxShareMs, rankOf, rankParts } from "./queue-order.ts";
import type { Complexity } from "./records.ts";

const complexity = fc.constantFrom<Complexity>("simple", "complex", "premium");
const now = 1_800_000_000_000;
const base = { nowMs: now, notBeforeMs: null, fairMs: now, deadlineMs: null, expectedMs: 600_000 };

test("[S139] older first; a step of priority is worth 100,000 seconds of age, premium 50,000", () => {
  const rank = (baseMs: number, priority: number, c: Complexity = "simple") =>
    rankOf({ baseMs, priority, complexity: c });
  expect(rank(now, 5)).toBeLessThan(rank(now + 1, 5));
  expect(rank(now + 100_000_000, 6)).toBe(rank(now, 5));
  expect(rank(now + 50_000_000, 5, "premium")).toBe(rank(now, 5));
  expect(rank(now, 5, "complex")).toBe(rank(now, 5));
});

test("a rank is taken apart into what it was made of", () => {
  fc.assert(
    fc.property(fc.nat(maxShareMs), fc.integer({ min: 1, max: 9 }), complexity, (share, priority, c) => {
      const rank = rankOf({ baseMs: now + share, priority, complexity: c });
      const parts = rankParts({ rank, priority, complexity: c, createdAt: new Date(now), notBefore: null });
      expect(parts.base.getTime() - parts.priorityMs - parts.premiumMs).toBe(Number(rank));
      expect(parts.shareMs).toBe(share);
    }),
  );
});

test.each([
  ["nothing special", {}, now],
  ["a share moves it back", { fairMs: now + 90_000 }, now + 90_000],
  ["a share is a day at most", { fairMs: now + 10 * maxShareMs }, now + maxShareMs],
  ["an idle owner's clock lies behind", { fairMs: now - 5_000 }, now],
  ["it stands in line from its not_before on", { notBeforeMs: now + 3_600_000 }, now + 3_600_000],
  ["a deadline gives back what the share took", { fairMs: now + 90_000, deadlineMs: now + 630_000 }, now + 30_000],
  ["but nobody overtakes older jobs by it", { fairMs: now + 90_000, deadlineMs: now + 1 }, now],
])("where a job stands in time: %s", (_, change, expected) => {
  expect(baseOf({ ...base, ...change })).toBe(expected);
});

test("neither a share nor a deadline turns two priorities around, and no job waits for ever behind newer ones", () => {
  const time = fc.integer({ min: now - 10 * maxShareMs, max: now + 10 * maxShareMs });
  const facts = fc.record({ fairMs: time, deadlineMs: fc.option(time), expectedMs: fc.nat(maxShareMs) });
  fc.assert(
    fc.property(facts, facts, fc.integer({ min: 1, max: 8 }), (one, other, priority) => {
      const rank = (f: typeof one, p: number, nowMs = now) =>
        rankOf({ baseMs: baseOf({ ...base, ...f, nowMs }), priority: p, complexity: "simple" });
      expect(rank(one, priority + 1)).toBeLessThan(rank(other, priority));
      // A day later nobody of the same priority can come in front of it any more.
      expect(rank(one, priority)).toBeLessThanOrEqual(rank(other, priority, now + maxShareMs));
    }),
  );
});
