// The seven stages of media-merge in a row with real FFmpeg, over the clips that callers really send: odd sizes, other rates,
// no sound, turned, non-square. What is proven of the result: size, rate, sound, and that every clip lies where
// segments.json says, to the frame. The same through a real fleet: scripts/flow/media-merge.test.ts.
import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { afterAll, afterEach, describe, expect, test } from "vitest";
import { type StageEnd, StageFailure, type StageKind } from "../work/contract.ts";
import { analyseStage } from "./analyse.ts";
import { cleanupStage } from "./cleanup.ts";
import { compressStage, linesFor } from "./compress.ts";
import { createMediaStage } from "./media.ts";
import { concatList, mergeStage } from "./merge.ts";
import { type Segment, segmentsOf } from "./merge-clips.ts";
import { commonTarget } from "./merge-target.ts";
import { prepareStage } from "./prepare.ts";
import { shape } from "./prepare-plan.ts";
import { probe, type VideoFacts } from "./probe.ts";
import { storeStage } from "./store.ts";
import { createTestContext, type TestContext, type TestContextOptions } from "./testing.ts";
import { createTestMedia, type MediaName } from "./testing-media.ts";

const media = createTestMedia();
const contexts: TestContext[] = [];
afterEach(() => {
  for (const context of contexts.splice(0)) context.remove();
});
afterAll(() => media.remove());

type Row = readonly [stage: string, kind: StageKind, needs: readonly string[], params?: object];
const upload = createMediaStage({ ttsProvider: "espeak" });
const rows: readonly Row[] = [
  ["upload", upload, [""], { sources: ["upload"], accept: ["video"], max: 50 }],
  ["analysis", analyseStage, ["upload"]],
  ["preparation", prepareStage, ["upload", "analysis"]],
  ["merging", mergeStage, ["preparation"]],
  ["compression", compressStage, ["merging"], { height: 1080, videoKbps: 800, preset: "ultrafast" }],
  ["storage_upload", storeStage, ["compression"]],
  ["cleanup", cleanupStage, ["storage_upload"]],
];

type Done = { readonly made: TestContext; readonly end: StageEnd };
type Clips = readonly (readonly [name: string, file: string])[];

/** Runs the stages up to `last`, each over the outputs and results of those that it needs, as the control plane does. */
const runStages = async (clips: Clips, request: object, last = "cleanup", more: TestContextOptions = {}) => {
  const done = new Map<string, Done>();
  for (const [stage, kind, needs, params = {}] of rows) {
    const results = Object.fromEntries(needs.map((need) => [need, done.get(need)?.end.result]));
    const made = createTestContext({ stage, params, request, results, ...more });
    contexts.push(made);
    if (needs.includes("")) for (const [name, file] of clips) made.addInput("", name, { path: file });
    for (const need of needs) {
      const before = done.get(need);
      for (const output of before?.end.outputs ?? [])
        made.addInput(need, output.name, { path: path.join(before?.made.dir ?? "", output.path) });
    }
    done.set(stage, { made, end: await kind.run(made.context) });
    if (stage === last) break;
  }
  const of = (stage: string): Done => {
    const found = done.get(stage);
    if (!found) throw new Error(`${stage} did not run`);
    return found;
  };
  return { of, fileOf: (stage: string, name: string) => path.join(of(stage).made.dir, name) };
};

const named = (...names: readonly MediaName[]): Clips => names.map((name) => [name, media.make(name)]);
const failureOf = async (run: Promise<unknown>): Promise<StageFailure> => {
  const error = await run.catch((reason: unknown) => reason);
  expect(error).toBeInstanceOf(StageFailure);
  return error as StageFailure;
};
/** One RGB value a frame: the mean of the picture. */
const colours = (file: string): number[][] => {
  const ran = spawnSync(
    "ffmpeg",
    ["-v", "error", "-i", file, "-vf", "scale=1:1:flags=area", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"],
    { maxBuffer: 1 << 24 },
  );
  return Array.from({ length: ran.stdout.length / 3 }, (_, i) => [...ran.stdout.subarray(3 * i, 3 * i + 3)]);
};
const segmentsIn = (file: string): Segment[] => JSON.parse(readFileSync(file, "utf8")).segments;
const solid = (name: string, colour: string, size: string, rate: string, seconds: number, sound = false) =>
  media.run(name, [
    ...["-f", "lavfi", "-i", `color=${colour}:s=${size}:r=${rate}:d=${seconds}`],
    ...(sound ? ["-f", "lavfi", "-i", `sine=f=440:r=44100:d=${seconds + 0.4}`] : []),
    ...["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"],
  ]);

// Some fifty short processes: quick alone, slow beside other tests.
describe("seven stages", { timeout: 120_000 }, () => {
  test("make one video of clips of any size, rate and sound, and segments.json is exact to the frame", async () => {
    const clips: Clips = [
      ["upload-000", solid("red.mp4", "red", "320x180", "30", 1, true)],
      ["upload-001", solid("lime.mkv", "lime", "180x320", "25", 1.24)],
      ["upload-002", solid("blue.mp4", "blue", "176x144", "24000/1001", 0.7, true)],
    ];
    const media_names = { "upload-000": "Füchse & 'co' 100%.mp4", "upload-001": "../../etc/passwd", "upload-002": "b" };
    const cached = new Map<string, number>();
    const request = { title: "All", media: ["b"], media_names, width: 320, height: 180 };
    const { of, fileOf } = await runStages(clips, request, "cleanup", { cached });

    // 0.7 s at 23.976 are 17 frames (0.709 s), which are 21 at 30; 31 frames at 25 are 37.
    const segments = segmentsIn(fileOf("storage_upload", "segments.json"));
    expect(segments.map((s) => [s.name, s.end_frame - s.start_frame])).toEqual([
      ["b", 21],
      ["Füchse & 'co' 100%.mp4", 30],
      ["../../etc/passwd", 37],
    ]);
    expect(segments.map((s) => [s.start, s.end])).toEqual([
      [0, 0.7],
      [0.7, 1.7],
      [1.7, 2.933333],
    ]);
    const video = fileOf("storage_upload", "video.mp4");
    const frames = colours(video);
    expect(frames.length).toBe(88);
    const strongest = frames.map((rgb) => rgb.indexOf(Math.max(...rgb)));
    const expected = segments.flatMap((s, i) => new Array(s.end_frame - s.start_frame).fill([2, 0, 1][i]));
    expect(strongest).toEqual(expected);

    const facts = await probe(of("storage_upload").made.context, "look", "video.mp4", "video.mp4");
    expect(facts.video).toMatchObject({ profile: "High", width: 320, height: 180, fps: 30, colorSpace: "bt709" });
    expect(facts.audio).toMatchObject({ codec: "aac", sampleRate: 48_000, channels: 2 });
    // The clip without sound is silent where it lies, and the ones with sound are not.
    const silences = spawnSync("ffmpeg", ["-i", video, "-af", "silencedetect=n=-50dB:d=0.3", "-f", "null", "-"]);
    const starts = [...silences.stderr.toString().matchAll(/silence_start: ([\d.]+)/g)].map((match) =>
      Number(match[1]),
    );
    expect(starts.length).toBe(1);
    expect(Math.abs((starts[0] ?? 0) - 1.7)).toBeLessThan(0.05);

    const verified = spawnSync("sha256sum", ["-c", "checksums.sha256"], { cwd: of("storage_upload").made.dir });
    expect(verified.stdout.toString()).toBe("video.mp4: OK\nsegments.json: OK\nmanifest.json: OK\n");
    const manifest = JSON.parse(readFileSync(fileOf("storage_upload", "manifest.json"), "utf8"));
    expect(manifest).toMatchObject({ title: "All", clips: 3, frames: 88, fps: 30 });
    expect(manifest.files.map((file: { name: string; media_type: string }) => [file.name, file.media_type])).toEqual([
      ["video.mp4", "video/mp4"],
      ["segments.json", "application/json"],
    ]);
    expect(of("analysis").end.result).toMatchObject({ target: { width: 320, height: 180, fps: 30 } });
    const analysis = JSON.parse(readFileSync(fileOf("analysis", "analysis.json"), "utf8"));
    expect(analysis.clips[2]).toMatchObject({ original: "../../etc/passwd", audio: null, loudness: null });
    expect(analysis.clips[1].loudness.integrated_lufs).toBeLessThan(-15);
    expect(of("preparation").end.outputs.map((output) => output.name)).toEqual([
      "prepared-000.mov",
      "prepared-001.mov",
      "prepared-002.mov",
    ]);
  });

  test("take turned, odd, non-square, variable and one-frame clips, and a clip twice", async () => {
    const clips = named("rotated.mp4", "odd.mkv", "anamorphic.mp4", "variable-rate.mkv", "one-frame.mp4");
    const request = { media: ["odd.mkv", "odd.mkv"], fit: "crop", height: 90, fps: 24 };
    const { of, fileOf } = await runStages(clips, request, "compression");
    // The largest shape is the anamorphic one: 427x240 as shown.
    expect(of("compression").end.result).toMatchObject({ width: 160, height: 90, fps: 24, clips: 6 });
    const segments = segmentsIn(fileOf("compression", "segments.json"));
    expect(segments[0]?.end_frame).toBe(24);
    expect(segments[1]).toMatchObject({ start: 1, end: 2, name: "odd.mkv" });
    expect(colours(fileOf("compression", "video.mp4")).length).toBe(segments.at(-1)?.end_frame);
  });

  test("repeat nothing after a restart of the agent", async () => {
    const { of } = await runStages(named("no-audio.mp4", "portrait.mp4"), { height: 90 }, "preparation");
    const { made, end } = of("preparation");
    // The picture without its sound is gone: it would double what the stage needs on the scratch disk.
    expect(readdirSync(made.dir).sort()).toEqual(["inputs", "prepared-000.mov", "prepared-001.mov"]);
    const count = made.steps.length;
    const again = made.again();
    expect(await prepareStage.run(again.context)).toEqual(end);
    expect(made.steps.length).toBe(count);
  });
});

describe("refused", () => {
  test("nothing uploaded: no background is drawn in its place", async () => {
    const failure = await failureOf(runStages([], {}));
    expect(failure.failureClass).toBe("input_missing");
    expect(failure.message).toContain("this pipeline takes it from: upload");
  });

  test("a picture, a playlist and a single clip", async () => {
    const picture = await failureOf(runStages(named("clip.mp4", "picture.jpg"), {}));
    expect(picture.message).toBe('The uploaded file "picture.jpg" is a picture, expected a video.');
    const list = path.join(media.dir, "list.mp4");
    writeFileSync(list, "ffconcat version 1.0\nfile /etc/passwd\n");
    expect((await failureOf(runStages([["list.mp4", list]], {}))).failureClass).toBe("input_refused");
    const single = await failureOf(runStages(named("clip.mp4"), {}));
    expect(single.message).toContain("make 1 clips, expected 2 to 50. Upload or list more.");
  });

  test("a cut Matroska clip too, though FFmpeg ends with 0 and names no error", async () => {
    const whole = readFileSync(solid("whole.mkv", "red", "640x360", "30", 4));
    const cut = path.join(media.dir, "cut.mkv");
    writeFileSync(cut, whole.subarray(0, Math.round(whole.length * 0.6)));
    const failure = await failureOf(runStages([["cut.mkv", cut], ...named("portrait.mp4")], { height: 90 }));
    expect(failure.failureClass).toBe("input_corrupt");
    expect(failure.message).toMatch(/^The uploaded file "cut.mkv" is damaged or cut off\./);
  });

  test("a cut clip fails by the caller's name", async () => {
    const failure = await failureOf(runStages(named("portrait.mp4", "truncated.mp4"), { height: 90 }));
    expect(failure.failureClass).toBe("input_corrupt");
    expect(failure.message).toMatch(/^The uploaded file "truncated.mp4" is damaged or cut off\./);
  });
});

describe("cleanup", () => {
  const intermediates = ["a", "b", "b"].map((digit) => ({ name: digit, sha256: digit.repeat(64), size: 5 }));
  const setUp = (cached: Map<string, number>) => {
    const made = createTestContext({ results: { storage_upload: { intermediates } }, cached });
    contexts.push(made);
    return made;
  };

  test("reports what it freed, counts a file once, and says the same after a restart", async () => {
    const made = setUp(new Map([["b".repeat(64), 7]]));
    const { result } = await cleanupStage.run(made.context);
    expect(result).toEqual({ files_freed: 1, bytes_freed: 7, files_left: 1 });
    expect((await cleanupStage.run(made.again().context)).result).toEqual(result);
  });

  test("a file that cannot be freed takes no finished video back", async () => {
    const made = setUp(new Map());
    const context = { ...made.context, release: () => Promise.reject(new Error("EACCES")) };
    expect((await cleanupStage.run(context)).result).toEqual({ files_freed: 0, bytes_freed: 0, files_left: 2 });
  });
});

describe("plans", () => {
  const clip = (width: number, height: number, fps = 30, pixelAspect = 1) => ({ width, height, fps, pixelAspect });
  test.each([
    ["the largest decides", [clip(640, 360), clip(320, 240)], {}, [640, 360, 30]],
    ["full HD is the bound, lying", [clip(3840, 2160, 59.94)], {}, [1920, 1080, 60]],
    ["and standing", [clip(1440, 2560, 23.976)], {}, [1080, 1920, 24]],
    ["a height alone keeps the shape", [clip(1920, 1080, 120)], { height: 180 }, [320, 180, 60]],
    ["what was asked for wins", [clip(1920, 1080)], { width: 3840, height: 2160, fps: 25 as const }, [3840, 2160, 25]],
    ["pixels are squared, sides made even", [clip(321, 241, 15, 4 / 3)], {}, [428, 242, 24]],
    ["a dot is not smaller than 64", [clip(2, 2)], {}, [64, 64, 30]],
  ])("commonTarget: %s", (_, clips, asked, [width, height, fps]) => {
    expect(commonTarget(clips, { fit: "pad", ...asked })).toMatchObject({ width, height, fps });
  });

  test("shape: a strip is scaled to no more than the target", () => {
    const video = { width: 3, height: 2000, pixelAspect: 1, colorSpace: "bt709", pixelFormat: "yuv420p" } as VideoFacts;
    const target = { width: 320, height: 180, fps: 30, sample_rate: 48_000, channels: 2 } as const;
    expect(shape(video, { ...target, fit: "pad" })).toMatch(/^scale=2:180:.*,pad=320:180:/);
    expect(shape(video, { ...target, fit: "crop" })).toMatch(/^crop=3:2,scale=320:180:/);
  });

  test("segmentsOf and concatList: no rounding adds up over fifty clips", () => {
    const clips = Array.from({ length: 50 }, (_, i) => ({ original: `a\nfile '/etc/passwd'${i}`, frames: 31 }));
    const segments = segmentsOf(clips, 30);
    expect(segments[49]).toMatchObject({ start: 50.633333, end: 51.666667, start_frame: 1519, end_frame: 1550 });
    const list = concatList(segments);
    expect(list).not.toContain("passwd");
    const total = [...list.matchAll(/^duration ([\d.]+)$/gm)].reduce((sum, match) => sum + Number(match[1]), 0);
    expect(total).toBeCloseTo(1550 / 30, 6);
  });

  test("linesFor: a standing video is bound by its width", () => {
    expect(linesFor({ width: 1920, height: 1080 }, 1080)).toBe(1080);
    expect(linesFor({ width: 1080, height: 1920 }, 1080)).toBe(1920);
  });
});
