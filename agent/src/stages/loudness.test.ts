// The two passes with real voices: quiet, loud, very uneven, one word and silence all end where the validation wants them.

import { spawnSync } from "node:child_process";
import { afterAll, describe, expect, test } from "vitest";
import {
  amplify,
  corrected,
  evenVoice,
  gainFor,
  type Loudness,
  maxTrials,
  measure,
  needsTrial,
  padTo,
  parseLoudness,
} from "./loudness.ts";
import { createTestMedia, speak } from "./testing-media.ts";

const media = createTestMedia();
afterAll(() => media.remove());

const measured = (file: string, filters: readonly string[]): Loudness => {
  const args = [
    "-hide_banner",
    "-nostdin",
    "-nostats",
    "-i",
    file,
    "-af",
    [...filters, measure].join(","),
    "-f",
    "null",
    "-",
  ];
  const ran = spawnSync("ffmpeg", args, { encoding: "utf8", timeout: 30_000 });
  const loudness = parseLoudness(ran.stderr);
  if (loudness === undefined) throw new Error(ran.stderr);
  return loudness;
};
/** As the render does it. */
const finished = (file: string): Loudness => {
  const tail = padTo(4);
  let gain = gainFor(measured(file, [evenVoice, tail]));
  for (let trial = 0; needsTrial(gain) && trial < maxTrials; trial += 1)
    gain = corrected(gain, measured(file, [evenVoice, amplify(gain), tail]));
  return measured(file, [evenVoice, amplify(gain), tail]);
};
const voice = (name: string, filters: string): string => media.run(name, ["-i", speak(media), "-af", filters]);

describe("loudness", () => {
  test.each([
    ["as spoken", "anull"],
    ["20 dB too quiet", "volume=-20dB"],
    ["overdriven", "volume=8dB"],
    ["very uneven", "aresample=48000,agate=threshold=0.2:ratio=4:range=0.05,volume=-10dB"],
  ])("a voice %s ends at -14 LUFS and under -1.5 dBTP", (name, filters) => {
    const end = finished(voice(`${name.replaceAll(" ", "-")}.flac`, filters));
    expect(Math.abs(end.integratedLufs + 14)).toBeLessThanOrEqual(0.5);
    expect(end.truePeakDb).toBeLessThanOrEqual(-1.5);
  });

  test("silence stays silence and gets no gain", () => {
    const silence = media.run("silence.flac", "-f lavfi -i anullsrc=r=22050:cl=mono -t 2".split(" "));
    const found = measured(silence, [evenVoice]);
    expect(found).toEqual({ integratedLufs: -70, truePeakDb: Number.NEGATIVE_INFINITY });
    expect(gainFor(found)).toBe(0);
    expect(corrected(0, found)).toBe(0);
  });

  test("of two summaries the last counts; none is undefined", () => {
    const summary = (lufs: string, peak: string) =>
      `Summary:\n  Integrated loudness:\n    I:  ${lufs} LUFS\n  True peak:\n    Peak: ${peak} dBFS\n`;
    expect(parseLoudness(summary("-70.0", "-inf") + summary("-14.1", "-1.3"))).toEqual({
      integratedLufs: -14.1,
      truePeakDb: -1.3,
    });
    expect(parseLoudness("nothing")).toBeUndefined();
  });

  test("gain is bounded in both directions", () => {
    expect(gainFor({ integratedLufs: -68, truePeakDb: -60 })).toBe(40);
    expect(gainFor({ integratedLufs: -10, truePeakDb: 0 })).toBe(-4);
  });
});
