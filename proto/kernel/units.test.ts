import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  dollarsFromMicros,
  formatBytes,
  formatDuration,
  formatMicros,
  microsFromDollars,
  parseBytes,
  parseDurationMs,
} from "./units.ts";

describe("units", () => {
  test("whole micro-dollars survive the way to dollars and back", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: -1e12, max: 1e12 }),
        (n) => microsFromDollars(dollarsFromMicros(BigInt(n))) === BigInt(n),
      ),
    );
    expect(microsFromDollars(0.1) + microsFromDollars(0.2)).toBe(microsFromDollars(0.3));
    expect(() => microsFromDollars(Number.NaN)).toThrow("finite");
  });
  test.each([
    [2_500_000n, "$2.50"],
    [0n, "$0.00"],
    [420n, "$0.000420"],
  ])("%s micro-dollars are %s", (micros, text) => expect(formatMicros(micros)).toBe(text));
  test.each([
    ["90s", 90_000],
    ["1.5m", 90_000],
    ["200ms", 200],
  ])("%s is a duration", (text, ms) => expect(parseDurationMs(text)).toBe(ms));
  test("what is no duration or size is refused with an example", () => {
    expect(() => parseDurationMs("90")).toThrow("like 90s");
    expect(() => parseBytes("12 MB")).toThrow("like 512MiB");
    expect(parseBytes("1.5GiB")).toBe(1.5 * 1024 ** 3);
  });
  test("times and sizes as people write them", () => {
    expect(formatDuration(3_852_000)).toBe("1 h 04 m 12 s");
    expect(formatDuration(3200)).toBe("3.2 s");
    expect(formatBytes(6_200_000)).toBe("6.2 MB");
  });
});
