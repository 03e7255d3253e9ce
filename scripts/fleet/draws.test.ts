// The draws and the counts that every simulation stands on.
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { createHistogram } from "./histogram.ts";
import { readOptions, UsageError } from "./options.ts";
import { createRandom } from "./random.ts";
import { defaultScenario, durationMs, failureOf, profilesOf } from "./scenario.ts";

describe("a seed", () => {
  test("repeats its draws, and no other one has them", () => {
    const draws = (...seed: (number | string)[]) => {
      const random = createRandom(...seed);
      return Array.from({ length: 20 }, () => random.next());
    };
    expect(draws(1, "a")).toEqual(draws(1, "a"));
    expect(draws(1, "a")).not.toEqual(draws(2, "a"));
    expect(draws(1, "a")).not.toEqual(draws(1, "b"));
  });

  test("draws are spread as they say", () => {
    const random = createRandom(7);
    const draws = (draw: () => number) => Array.from({ length: 20_000 }, draw).sort((a, b) => a - b);
    const mean = (list: readonly number[]) => list.reduce((sum, x) => sum + x, 0) / list.length;
    expect(mean(draws(random.next))).toBeCloseTo(0.5, 1);
    expect(mean(draws(() => random.exponential(100)))).toBeGreaterThan(95);
    expect(mean(draws(() => random.exponential(100)))).toBeLessThan(105);
    const lognormal = draws(() => random.lognormal(2_000, 0.6));
    expect(lognormal[10_000]).toBeGreaterThan(1_900);
    expect(lognormal[10_000]).toBeLessThan(2_100);
    // One sigma above the median.
    expect(lognormal[16_826]).toBeGreaterThan(2_000 * Math.exp(0.6) * 0.93);
    expect(lognormal[16_826]).toBeLessThan(2_000 * Math.exp(0.6) * 1.07);
  });
});

test("percentiles are right to one bucket, and merging is adding", () => {
  fc.assert(
    fc.property(fc.array(fc.double({ min: 0.02, max: 1e6, noNaN: true }), { minLength: 1 }), (values) => {
      const whole = createHistogram();
      const parts = [createHistogram(), createHistogram()] as const;
      for (const [i, value] of values.entries()) {
        whole.record(value);
        (i % 2 === 0 ? parts[0] : parts[1]).record(value);
      }
      const merged = createHistogram();
      for (const part of parts) merged.merge(JSON.parse(JSON.stringify(part.toJson())));
      expect(merged.toJson().buckets).toEqual(whole.toJson().buckets);
      const sorted = [...values].sort((a, b) => a - b);
      for (const share of [0.5, 0.95, 1]) {
        const exact = sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)] as number;
        expect(Math.abs(merged.percentile(share) / exact - 1)).toBeLessThan(0.011);
      }
    }),
  );
});

describe("a scenario", () => {
  test("keeps the shares of its profiles for any number of hosts", () => {
    for (const hosts of [1, 7, 100, 999]) {
      const names = profilesOf({ ...defaultScenario, hosts }).map((p) => p.name);
      expect(names.length).toBe(hosts);
      expect(Math.abs(names.filter((n) => n === "gpu-8").length - hosts * 0.2)).toBeLessThan(1);
    }
  });

  test("a GPU makes a stage faster, a fixed duration is what it says, and failures come at their rate", () => {
    const at = (hasGpu: boolean) => durationMs(defaultScenario, createRandom(3), { kind: "render", hasGpu });
    expect(at(false) / at(true)).toBeCloseTo(defaultScenario.gpuSpeed, 5);
    const fixed = { ...defaultScenario, durations: { kind: "fixed", ms: 5 } as const };
    expect(durationMs(fixed, createRandom(3), { kind: "script", hasGpu: true })).toBe(5);
    const random = createRandom(4);
    const classes = Array.from({ length: 10_000 }, () =>
      failureOf({ failures: { crashed: 0.1, timeout: 0.05 } }, random),
    );
    expect(classes.filter((c) => c === "crashed").length / 10_000).toBeCloseTo(0.1, 1);
    expect(classes.filter((c) => c === "timeout").length / 10_000).toBeCloseTo(0.05, 1);
  });
});

describe("the command line", () => {
  test("an option that makes no sense ends it with the option's name", () => {
    for (const [args, name] of [
      [["--hosts", "0"], "--hosts"],
      [["--hosts", "2.5"], "--hosts"],
      [["--rate=-1"], "--rate"],
      [["--fail", "nonsense=0.5"], "--fail"],
      [["--fail", "crashed=2"], "--fail"],
      [["--fail", "crashed=0.6", "--fail", "timeout=0.6"], "--fail"],
      [["--server", "not a url"], "--server"],
      [["--replicas", "9"], "--replicas"],
    ] as const)
      expect(() => readOptions(args), args.join(" ")).toThrow(new RegExp(`^${name}`));
    expect(() => readOptions(["--nonsense"])).toThrow(UsageError);
    expect(readOptions(["--help"])).toBeUndefined();
  });

  test("seconds for a run, hours for a plan, GPUs as a share", () => {
    expect(readOptions(["--duration", "2"])?.durationMs).toBe(2_000);
    expect(readOptions(["--plan", "--duration", "2"])?.durationMs).toBe(7_200_000);
    const shares = (share: string) =>
      readOptions(["--gpu-share", share])?.scenario.profiles.map((p) => [p.gpus > 0, Math.round(p.share * 100)]);
    expect(shares("0")).toEqual([
      [false, 75],
      [false, 25],
    ]);
    expect(shares("0.5")?.at(-1)).toEqual([true, 50]);
  });
});
