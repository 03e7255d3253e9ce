// The ladder with real files: sizes by shape, never enlarged, odd material, refused material, and the validation behind it.
import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { type StageEnd, StageFailure } from "../work/contract.ts";
import { isFastStart } from "./mp4-boxes.ts";
import { probe, type VideoFacts } from "./probe.ts";
import { createTestContext, type TestContext } from "./testing.ts";
import { createTestMedia, type MediaName } from "./testing-media.ts";
import { transcodeStage } from "./transcode.ts";
import { renditionSize } from "./transcode-plan.ts";
import { validateLadderStage } from "./validate-ladder.ts";

const media = createTestMedia();
const contexts: TestContext[] = [];
afterEach(() => {
  for (const context of contexts.splice(0)) context.remove();
});
afterAll(() => media.remove());

const setUp = (file: string, height = 90, params: object = {}): TestContext => {
  const made = createTestContext({
    params: { height, videoKbps: 300, audioKbps: 64, preset: "ultrafast", ...params },
    request: { media_names: { "upload-000": `Mein "Film": 100%.mp4` } },
  });
  contexts.push(made);
  made.addInput("", "upload-000", { path: file });
  return made;
};
const failureOf = async (running: Promise<StageEnd>): Promise<StageFailure> => {
  const failure = await running.then(
    () => undefined,
    (error: unknown) => error,
  );
  expect(failure).toBeInstanceOf(StageFailure);
  return failure as StageFailure;
};

test("the odd files are as odd as their names", async () => {
  const made = setUp(media.make("odd.mkv"));
  const odd = await probe(made.context, "odd", "inputs/000", "odd");
  expect(odd.video).toMatchObject({ width: 321, height: 181, pixelFormat: "yuv444p" });
  made.addInput("x", "variable", { path: media.make("variable-rate.mkv") });
  const variable = await probe(made.context, "variable", "inputs/001", "variable", { countPackets: true });
  expect(variable.video).toMatchObject({ packets: 8 });
  expect(variable.durationSeconds).toBeGreaterThan(1.5);
  made.addInput("x", "rotated", { path: media.make("rotated.mp4") });
  const rotated = await probe(made.context, "rotated", "inputs/002", "rotated");
  expect(rotated.video).toMatchObject({ width: 180, height: 320 });
  made.addInput("x", "anamorphic", { path: media.make("anamorphic.mp4") });
  const anamorphic = await probe(made.context, "anamorphic", "inputs/003", "anamorphic");
  expect(anamorphic.video?.pixelAspect).toBeCloseTo(4 / 3);
});

describe("transcode", () => {
  test("height as asked, width by shape, H.264 and AAC, index in front", async () => {
    const made = setUp(media.make("clip.mp4"));
    const { result, outputs } = await transcodeStage.run(made.context);
    expect(outputs).toEqual([{ name: "rendition-90.mp4", path: "rendition-90.mp4", mediaType: "video/mp4" }]);
    expect(result).toMatchObject({ height: 90, width: 160, frames: 60, audio: true, encoder: "libx264" });
    expect(result.note).toBeUndefined();
    const facts = await probe(made.context, "test-probe", "rendition-90.mp4", "rendition");
    expect(facts.video).toMatchObject({
      codec: "h264",
      profile: "High",
      pixelFormat: "yuv420p",
      width: 160,
      height: 90,
    });
    expect(facts.audio).toMatchObject({ codec: "aac", channels: 2 });
    expect(await isFastStart(path.join(made.dir, "rendition-90.mp4"))).toBe(true);
  });

  test.each([
    ["without sound", "no-audio.mp4", { width: 160, height: 90, audio: false }],
    ["of one frame", "one-frame.mp4", { width: 160, height: 90, frames: 1 }],
    ["of odd size and 4:4:4", "odd.mkv", { width: 160, height: 90 }],
    ["with a variable frame rate", "variable-rate.mkv", { width: 160, height: 90, frames: 8 }],
    ["turned by metadata", "rotated.mp4", { width: 50, height: 90 }],
    ["with non-square pixels", "anamorphic.mp4", { width: 160, height: 90 }],
    ["that is an animation", "animation.gif", { width: 160, height: 90 }],
  ] as const)("a video %s", async (_, name: MediaName, expected) => {
    const made = setUp(media.make(name));
    const { result } = await transcodeStage.run(made.context);
    expect(result).toMatchObject(expected);
  });

  test("a smaller source is not enlarged, and the result says so", async () => {
    const { result } = await transcodeStage.run(setUp(media.make("odd.mkv"), 1080).context);
    expect(result).toMatchObject({
      height: 180,
      width: 320,
      note: "the source has only 181 lines, so it was not enlarged to 1080",
    });
  });

  test.each([
    ["a text", "hello, this is no video at all\n", "input_refused"],
    ["a playlist", "#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", "input_refused"],
    ["a concat list", "ffconcat version 1.0\nfile /etc/passwd\n", "input_refused"],
    ["nothing", "", "input_corrupt"],
  ])(
    "%s under a video's name is refused by the caller's name, and FFmpeg is not asked",
    async (_, content, failureClass) => {
      const file = path.join(media.dir, "fake.mp4");
      writeFileSync(file, content);
      const made = setUp(file);
      const failure = await failureOf(transcodeStage.run(made.context));
      expect(failure.failureClass).toBe(failureClass);
      expect(failure.message).toContain(`The uploaded file "Mein \\"Film\\": 100%.mp4" is `);
      expect(made.steps).toEqual([]);
    },
  );

  test("a truncated video fails by the caller's name, though FFmpeg ends with 0", async () => {
    const made = setUp(media.make("truncated.mp4"));
    const failure = await failureOf(transcodeStage.run(made.context));
    expect(failure.failureClass).toBe("input_corrupt");
    expect(failure.message).toMatch(/^The uploaded file "Mein .* is damaged or cut off\./);
    expect(made.steps.find((step) => step.name === "transcode")?.end.exitCode).toBe(0);
  });

  test("two uploads, a picture, and a height that is odd are refused", async () => {
    const two = setUp(media.make("clip.mp4"));
    two.addInput("", "upload-001", { path: media.make("clip.mp4") });
    expect((await failureOf(transcodeStage.run(two.context))).message).toMatch(
      /^2 files were uploaded, expected exactly one/,
    );
    const picture = setUp(media.make("picture.jpg"));
    expect((await failureOf(transcodeStage.run(picture.context))).message).toMatch(/is a picture, expected a video/);
    const odd = setUp(media.make("clip.mp4"), 91);
    expect((await failureOf(transcodeStage.run(odd.context))).message).toMatch(/^params\.height: /);
  });

  test("renditionSize", () => {
    const video = (width: number, height: number) => ({ width, height, pixelAspect: 1 }) as VideoFacts;
    expect(renditionSize(video(1920, 1080), 720)).toEqual({ width: 1280, height: 720, isReduced: false });
    expect(renditionSize(video(1, 1), 480)).toEqual({ width: 2, height: 2, isReduced: true });
    expect(renditionSize(video(1080, 1920), 1080)).toEqual({ width: 608, height: 1080, isReduced: false });
  });
});

describe("validate_ladder", () => {
  const renditions: { name: string; file: string }[] = [];
  beforeAll(async () => {
    for (const height of [90, 180]) {
      const single = setUp(media.make("clip.mp4"), height);
      await transcodeStage.run(single.context);
      const name = `rendition-${height}.mp4`;
      const file = path.join(media.dir, name);
      copyFileSync(path.join(single.dir, name), file);
      renditions.push({ name, file });
    }
  });
  const ladder = (over: (name: string, file: string) => string = (_, file) => file) => {
    const made = setUp(media.make("clip.mp4"));
    for (const { name, file } of renditions) made.addInput(name.slice(0, -4), name, { path: over(name, file) });
    return validateLadderStage.run(made.context);
  };

  test("a whole ladder passes", async () => {
    const { result } = await ladder();
    expect(result).toMatchObject({
      quality_score: 1,
      issues: [],
      renditions: ["rendition-90.mp4", "rendition-180.mp4"],
    });
  });

  test("a rendition of another size, a shorter one and a cut one fail, each by its name", async () => {
    const swapped = await failureOf(
      ladder((name, file) =>
        name === "rendition-180.mp4" ? media.run("s.mp4", ["-i", file, "-vf", "scale=160:90"]) : file,
      ),
    );
    expect(swapped.failureClass).toBe("quality_failed");
    expect(swapped.message).toContain("180_resolution is 160x90, expected 320x180");
    const shorter = await failureOf(
      ladder((name, file) =>
        name === "rendition-90.mp4" ? media.run("t.mp4", ["-i", file, "-t", "1", "-movflags", "+faststart"]) : file,
      ),
    );
    expect(shorter.message).toMatch(/90_duration is 1\.0\d\d s, expected 2\.000 ± 0\.150 s/);
    const cut = await failureOf(
      ladder((name, file) => {
        if (name !== "rendition-90.mp4") return file;
        const bytes = readFileSync(file);
        const half = path.join(media.dir, "half-file.mp4");
        writeFileSync(half, bytes.subarray(0, Math.round(bytes.length * 0.6)));
        return half;
      }),
    );
    expect(cut.message).toContain("90_decodes is ");
  });
});
