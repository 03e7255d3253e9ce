// The most valuable faults of the matrix, as part of every test run; `npm run test:faults` does all of them and writes docs/faults.md.
import { expect, test } from "vitest";
import { allCases } from "./matrix.ts";
import { isGood, runCase } from "./run-case.ts";

/** By their first number and a word of what is done, so that a case that is renamed is missed here and not silently left out. */
const short: readonly (readonly [string, RegExp])[] = [
  ["F1", /four times/],
  ["F2", /exclusive/],
  ["F4", /amid claims/],
  ["F10", /zombie/],
  ["F12", /takeover/],
  ["F14", /black hole/],
  ["F21", /immediate/],
  ["F32", /fifty/],
  ["F33", /stale fence/],
];

test.each(short)("%s: %s", { timeout: 400_000 }, async (name, injected) => {
  const fault = allCases.find((one) => one.faults[0] === name && injected.test(one.injected));
  if (!fault) throw new Error(`the matrix has no ${name} with ${injected}`);
  const result = await runCase(fault);
  expect(result, result.error).toSatisfy(isGood);
});
