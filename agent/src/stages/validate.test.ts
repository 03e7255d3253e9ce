// The validation with real files: a video of our own render passes, and each fault is found by its own check with figure and bound.
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { StageFailure } from "../work/contract.ts";
import { longestUnplanned, parseDecodeReport } from "./decode-report.ts";
import { isFastStart, topLevelBoxes } from "./mp4-boxes.ts";
import { renderStage } from "./render.ts";
import { createTestContext, type TestContext } from "./testing.ts";
import { createTestMedia, speak } from "./testing-media.ts";
import { validateStage } from "./validate.ts";

const media = createTestMedia();
const size = { width: 320, height: 180, fps: 30 };
type Rendered = { file: string; result: { [key: string]: unknown }; speechSeconds: number };
let good: Rendered;
const contexts: TestContext[] = [];

beforeAll(async () => {
  const made = createTestContext({
    params: { ...size, preset: "ultrafast" },
    results: { media_collection: { items: [] } },
  });
  contexts.push(made);
  made.addInput("audio_synthesis", "narration.flac", {
    path: speak(media, "The sun is a star. It holds the planets with its gravity, and it gives them light."),
  });
  made.addInput("audio_synthesis", "timings.json", {
    bytes: '[{"text":"The sun is a star.","start_ms":0,"end_ms":1500}]',
  });
  made.addInput("media_collection", "scene-000.jpg", { path: media.make("picture.jpg") });
  made.addInput("media_collection", "scene-001.mp4", { path: media.make("clip.mp4") });
  const { result } = await renderStage.run(made.context);
  good = { file: path.join(made.dir, "video.mp4"), result, speechSeconds: Number(result.duration) - 0.5 };
});
afterAll(() => {
  for (const made of contexts) made.remove();
  media.remove();
});

const validate = async (file: string, over: { params?: object; render?: object } = {}) => {
  const made = createTestContext({
    params: { ...size, ...over.params },
    results: {
      audio_synthesis: { duration: good.speechSeconds },
      video_rendering: { ...good.result, ...over.render },
    },
  });
  contexts.push(made);
  made.addInput("video_rendering", "video.mp4", { path: file });
  return (await validateStage.run(made.context)).result;
};
const failureOf = async (file: string, over: Parameters<typeof validate>[1] = {}): Promise<StageFailure> => {
  const failure = await validate(file, over).then(
    () => undefined,
    (error: unknown) => error,
  );
  expect(failure).toBeInstanceOf(StageFailure);
  return failure as StageFailure;
};
/** The good video with other pictures or sound, coded as the render codes. */
const variant = (name: string, filters: readonly string[], more: readonly string[] = []) =>
  media.run(name, [
    ...["-i", good.file, ...filters],
    ..."-c:v libx264 -preset ultrafast -8x8dct 1 -profile:v high -pix_fmt yuv420p -bf 2 -colorspace bt709 -c:a aac -b:a 192k -ar 48000 -ac 2 -movflags +faststart".split(
      " ",
    ),
    ...more,
  ]);

describe("validate", () => {
  test("[S161] a video of our render passes every check: score 1, no issues, loudness at -14", async () => {
    const result = await validate(good.file);
    expect(result).toMatchObject({ quality_score: 1, issues: [] });
    const checks = result.checks as { name: string; ok: boolean; value: string }[];
    expect(checks.every((check) => check.ok)).toBe(true);
    expect(checks.map((check) => check.name)).toEqual(
      expect.arrayContaining([
        "file_size",
        "duration",
        "faststart",
        "resolution",
        "loudness",
        "true_peak",
        "black",
        "freeze",
        "silence",
      ]),
    );
    const lufs = Number.parseFloat(checks.find((check) => check.name === "loudness")?.value ?? "");
    expect(Math.abs(lufs + 14)).toBeLessThanOrEqual(0.5);
  });

  test("[S161] a duration under the minimum fails with the figure and the bound", async () => {
    const failure = await failureOf(good.file, { params: { min_duration: 30 } });
    expect(failure.failureClass).toBe("quality_failed");
    expect(failure.message).toMatch(
      /^video\.mp4 did not pass 1 of \d+ checks: duration is \d\.\d\d s, expected at least 30\.00 s\.$/,
    );
    expect(JSON.parse(failure.evidence)).toMatchObject({ issues: ["duration"] });
    expect(JSON.parse(failure.evidence).quality_score).toBeLessThan(1);
  });

  test.each([
    ["too quiet", "loudness", ["-af", "volume=-12dB"], "LUFS, expected -14.0 ± 1.0 LUFS"],
    ["too loud", "true_peak", ["-af", "volume=6dB"], "expected at most -1.0 dBTP"],
    ["silent in the middle", "silence", ["-af", "volume=0:enable='between(t,1,4.2)'"], "expected at most 2.00 s"],
    [
      "black for seconds",
      "black",
      ["-vf", "drawbox=c=black:t=fill:enable='between(t,1,3.5)',setparams=colorspace=bt709"],
      "expected at most 2.00 s",
    ],
    ["of another size", "resolution", ["-vf", "scale=160:90"], "is 160x90, expected 320x180"],
    ["of another rate", "fps", ["-r", "25"], "expected 30.00 ± 0.01 fps"],
    ["4:4:4", "pixel_format", ["-profile:v", "high444"], "is yuv444p, expected yuv420p"],
    ["mono", "channels", [], "is 1, expected 2"],
    ["without sound", "streams", ["-an"], "is 1, expected 2"],
    ["too short", "duration_speech", ["-t", "2"], "duration_speech is 2.0"],
    ["late in sound", "av_start_offset", [], "expected at most 0.050 s"],
  ] as const)("[S161] a video that is %s fails the check %s", async (name, check, filters, sentence) => {
    const file = `${name.replaceAll(/\W/g, "-")}.mp4`;
    const made =
      check === "channels"
        ? variant(file, [], ["-ac", "1"])
        : check === "pixel_format"
          ? variant(file, [], ["-profile:v", "high444", "-pix_fmt", "yuv444p"])
          : check === "av_start_offset"
            ? media.run(file, [
                "-i",
                good.file,
                "-itsoffset",
                "0.3",
                "-i",
                good.file,
                ..."-map 0:v -map 1:a -c copy -movflags +faststart".split(" "),
              ])
            : variant(file, filters);
    const failure = await failureOf(made);
    expect(failure.failureClass).toBe("quality_failed");
    expect(failure.message).toContain(`${check} is `);
    expect(failure.message).toContain(sentence);
  });

  test("a clip that stands still fails; the same in a planned still scene passes", async () => {
    const frozen = variant("frozen.mp4", [
      "-vf",
      "trim=end_frame=1,tpad=stop_mode=clone:stop_duration=60,setparams=colorspace=bt709",
      "-t",
      String(good.result.duration),
    ]);
    const failure = await failureOf(frozen, { params: { max_freeze: 2 }, render: { stills: [] } });
    expect(failure.message).toMatch(/freeze is \d\.\d\d s from \d\.\d\d s on, expected at most 2\.00 s/);
    const planned = await validate(frozen, { params: { max_freeze: 2 }, render: { stills: [[0, 60]] } });
    expect(planned.quality_score).toBe(1);
  });

  test("an index behind the pictures fails: the first byte would wait for the last", async () => {
    const slow = media.run("slow.mp4", ["-i", good.file, "-c", "copy"]);
    expect((await failureOf(slow)).message).toContain(
      "faststart is moov behind mdat or missing, expected moov before mdat",
    );
    expect(await isFastStart(good.file)).toBe(true);
    expect(await topLevelBoxes(good.file)).toEqual(["ftyp", "moov", "free", "mdat"]);
  });

  test("frames that the plan does not know fail", async () => {
    expect((await failureOf(good.file, { render: { frames: 17 } })).message).toMatch(/frames is \d+, expected 17/);
  });

  test("a cut file fails as quality, not as an input of the caller", async () => {
    const cut = path.join(media.dir, "cut.mp4");
    const bytes = readFileSync(good.file);
    writeFileSync(cut, bytes.subarray(0, bytes.length >> 1));
    const failure = await failureOf(cut);
    expect(failure.failureClass).toBe("quality_failed");
    const text = path.join(media.dir, "text.mp4");
    writeFileSync(text, "this is no video");
    expect((await failureOf(text)).message).toMatch(/^video\.mp4 did not pass: decodes is false, expected true\./);
    expect(await isFastStart(text)).toBe(false);
  });
});

describe("decode reports", () => {
  test("a freeze without an end lasts until the end, and planned time is taken out of the middle", () => {
    const report = parseDecodeReport(
      "lavfi.freezedetect.freeze_start: 3\n[silencedetect] silence_start: -0.01\nsilence_end: 2 |",
      10,
    );
    expect(report).toMatchObject({ frozen: [[3, 10]], silent: [[0, 2]], black: [], loudness: undefined });
    expect(
      longestUnplanned(
        [[0, 10]],
        [
          [2, 4],
          [5, 6],
        ],
      ),
    ).toEqual({ seconds: 4, at: 6 });
    expect(longestUnplanned([[3, 4]], [[0, 10]])).toEqual({ seconds: 0, at: 0 });
  });
});
