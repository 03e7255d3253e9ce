// The timeline covers the speech in whole frames for every length, number of scenes and frame rate.
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { planTimeline } from "./timeline.ts";

describe("planTimeline", () => {
  test("three scenes of equal length over ten seconds, half a second of crossfade", () => {
    expect(planTimeline(9.5, 3, 30)).toEqual({
      fps: 30,
      totalFrames: 300,
      fadeFrames: 15,
      slots: [
        { scene: 0, startFrame: 0, frames: 110 },
        { scene: 1, startFrame: 95, frames: 110 },
        { scene: 2, startFrame: 190, frames: 110 },
      ],
    });
  });

  test("a long speech over few scenes shows them again; a short one over many leaves some out", () => {
    expect(planTimeline(60, 2, 30).slots.map((slot) => slot.scene)).toEqual([0, 1, 0, 1, 0]);
    expect(planTimeline(2, 40, 30).slots.length).toBe(2);
    expect(planTimeline(0.2, 5, 30).slots.length).toBe(1);
    expect(planTimeline(5 * 3600, 1, 30).slots.length).toBe(24);
  });

  test("property: slots cover all frames, overlap by one crossfade, and crossfades never touch", () => {
    fc.assert(
      fc.property(
        fc.double({ min: 0.01, max: 6 * 3600, noNaN: true }),
        fc.integer({ min: 1, max: 100 }),
        fc.integer({ min: 1, max: 60 }),
        (seconds, scenes, fps) => {
          const { slots, totalFrames, fadeFrames } = planTimeline(seconds, scenes, fps);
          expect(totalFrames / fps).toBeGreaterThanOrEqual(seconds + 0.5 - 1e-6);
          expect(totalFrames / fps).toBeLessThan(seconds + 0.5 + 1 / fps + 1e-6);
          expect(slots[0]?.startFrame).toBe(0);
          for (const [i, slot] of slots.entries()) {
            expect(slot.scene).toBeLessThan(scenes);
            const next = slots[i + 1];
            const end = slot.startFrame + slot.frames;
            expect(end).toBe(next === undefined ? totalFrames : next.startFrame + fadeFrames);
            if (slots.length > 1) expect(slot.frames).toBeGreaterThanOrEqual(3 * fadeFrames - 1);
          }
        },
      ),
    );
  });
});
