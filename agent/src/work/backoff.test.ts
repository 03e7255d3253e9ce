// The pauses between tries: within their bounds whatever chance says, growing, and not the same for two callers.
import { expect, test } from "vitest";
import { createBackoff } from "./backoff.ts";

const pauses = { firstMs: 100, maxMs: 5_000 };
const take = (count: number, next: () => number): number[] => Array.from({ length: count }, next);

test("pauses stay between the first and the longest, also with the worst luck", () => {
  expect(
    take(
      6,
      createBackoff(pauses, () => 0),
    ),
  ).toEqual([100, 100, 100, 100, 100, 100]);
  expect(
    take(
      6,
      createBackoff(pauses, () => 1),
    ),
  ).toEqual([300, 900, 2700, 5000, 5000, 5000]);
});

test("two callers do not knock in step", () => {
  expect(take(5, createBackoff(pauses))).not.toEqual(take(5, createBackoff(pauses)));
});
