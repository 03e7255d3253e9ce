// What the progress reader must survive: any cut of the text, N/A, negative and missing times, and a clock that stands still.
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { createProgressReader } from "./progress.ts";

const block = (outUs: number | string, end = "continue") =>
  `frame=12\nfps=30.0\nstream_0_0_q=28.0\nbitrate=N/A\ntotal_size=100\nout_time_us=${outUs}\nout_time_ms=${outUs}\nout_time=00:00:01.0\ndup_frames=0\ndrop_frames=0\nspeed= 2.2x\nprogress=${end}\n`;

describe("createProgressReader", () => {
  test("out_time_us is microseconds, and the fraction is of the planned length", () => {
    const reader = createProgressReader(10_000);
    expect(reader.push(block(2_500_000))?.fraction).toBeCloseTo(0.25);
    expect(reader.push(block(5_000_000))).toMatchObject({ fraction: 0.5, speed: 5 });
  });

  test("speed and ETA follow the clock that is given", () => {
    const reader = createProgressReader(60_000);
    reader.push(block(0), 1_000);
    const second = reader.push(block(2_000_000), 2_000);
    expect(second?.speed).toBeCloseTo(2);
    expect(second?.etaMs).toBeCloseTo(29_000);
    for (let s = 3; s < 120; s += 1) reader.push(block(2_000_000 + (s - 2) * 500_000), s * 1_000);
    expect(reader.push(block(61_000_000), 120_000)?.speed).toBeCloseTo(0.5, 1);
  });

  test("N/A and negative times keep the last known place", () => {
    const reader = createProgressReader(10_000);
    expect(reader.push(block("N/A"))).toEqual({ fraction: 0, speed: 0, etaMs: undefined });
    expect(reader.push(block(-94_984_490))?.fraction).toBe(0);
    expect(reader.push(block(4_000_000))?.fraction).toBeCloseTo(0.4);
    expect(reader.push(block("N/A"))?.fraction).toBeCloseTo(0.4);
  });

  test("progress=end is no proof of success: the fraction stays where the output ended", () => {
    const reader = createProgressReader(10_000);
    expect(reader.push(block(3_000_000, "end"))?.fraction).toBeCloseTo(0.3);
  });

  test("without a plan there is no fraction and no ETA, but a speed", () => {
    const reader = createProgressReader();
    reader.push(block(0));
    expect(reader.push(block(1_000_000))).toEqual({ fraction: 0, speed: 2, etaMs: undefined });
  });

  test("an endless line is dropped and the next block is read", () => {
    const reader = createProgressReader(10_000);
    expect(reader.push("x".repeat(100_000))).toBeUndefined();
    expect(reader.push(`\n${block(1_000_000)}`)?.fraction).toBeCloseTo(0.1);
  });

  test("property: however the text is cut, the last answer is the same, within bounds, and never falls", () => {
    const times = fc.array(fc.oneof(fc.integer({ min: -1_000_000, max: 20_000_000 }), fc.constant("N/A" as const)), {
      minLength: 1,
      maxLength: 20,
    });
    fc.assert(
      fc.property(times, fc.array(fc.integer({ min: 1, max: 200 }), { minLength: 1, maxLength: 50 }), (outs, cuts) => {
        const text = outs.map((out) => block(out)).join("");
        const whole = createProgressReader(10_000).push(text);
        const reader = createProgressReader(10_000);
        let at = 0;
        let seen = 0;
        let answer = whole;
        for (let i = 0; at < text.length; i += 1) {
          const next = at + (cuts[i % cuts.length] ?? 1);
          const update = reader.push(text.slice(at, next));
          at = next;
          if (update === undefined) continue;
          expect(update.fraction).toBeGreaterThanOrEqual(seen);
          expect(update.fraction).toBeLessThanOrEqual(1);
          expect(update.speed).toBeGreaterThanOrEqual(0);
          seen = update.fraction;
          answer = update;
        }
        expect(answer?.fraction).toBe(whole?.fraction);
        expect(answer?.speed).toBeCloseTo(whole?.speed ?? -1, 6);
      }),
    );
  });

  test("two readings at almost the same moment, or a time of four hundred digits, are no speed", () => {
    const reader = createProgressReader(1_000);
    reader.push("out_time_us=1\nprogress=continue\n", 0);
    const close = reader.push("out_time_us=999999\nprogress=continue\n", 5e-324);
    const long = reader.push(`out_time_us=${"9".repeat(400)}\nprogress=continue\n`, 500);
    expect([close?.speed, Number.isFinite(long?.speed), long?.fraction]).toEqual([0, true, 0.999999]);
  });

  test("property: arbitrary text never throws and never leaves the bounds", () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.string(), fc.double({ noNaN: true, min: 0, max: 1e9 }))), (pieces) => {
        const reader = createProgressReader(1_000);
        for (const [piece, now] of pieces) {
          const update = reader.push(`${piece}\nout_time_us=${piece}\nprogress=continue\n`, now);
          expect(update?.fraction).toBeGreaterThanOrEqual(0);
          expect(update?.fraction).toBeLessThanOrEqual(1);
          expect(Number.isFinite(update?.speed)).toBe(true);
        }
      }),
    );
  });
});
