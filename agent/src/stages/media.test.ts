// The media stage over uploads, a library and drawn backgrounds, with the real ffprobe and FFmpeg. Stock video: see
// providers/pexels.test.ts.
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { crc32 } from "node:zlib";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { type StageEnd, StageFailure } from "../work/contract.ts";
import { planBackgrounds } from "./backgrounds.ts";
import { createMediaStage, type SceneItem } from "./media.ts";
import { createTestContext, type TestContext, type TestContextOptions } from "./testing.ts";

const folder = mkdtempSync(path.join(tmpdir(), "renderplane-media-"));
const ffmpeg = (...args: string[]): void => {
  execFileSync("ffmpeg", ["-v", "error", "-y", ...args], { cwd: folder });
};
const inFolder = (name: string): { path: string } => ({ path: path.join(folder, name) });

/** Turns a video by writing the display matrix into its track header, as a phone does. */
const turn = (from: string, to: string): void => {
  const bytes = readFileSync(path.join(folder, from));
  const at = bytes.indexOf("tkhd", 0, "latin1") + 44;
  for (const [index, value] of [0, 65_536, 0, -65_536, 0, 0, 0, 0, 0x40000000].entries())
    bytes.writeInt32BE(value, at + 4 * index);
  writeFileSync(path.join(folder, to), bytes);
};

beforeAll(() => {
  const source = "testsrc2=size=64x48:rate=10:duration=1";
  const x264 = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"];
  ffmpeg("-f", "lavfi", "-i", source, "-f", "lavfi", "-i", "sine=d=1", ...x264, "-shortest", "sound.mp4");
  ffmpeg("-f", "lavfi", "-i", source, ...x264, "silent.mp4");
  ffmpeg("-f", "lavfi", "-i", source, "-frames:v", "1", ...x264, "one-frame.mp4");
  ffmpeg("-f", "lavfi", "-i", "testsrc=size=63x47:rate=10:duration=1", "-c:v", "mpeg4", "odd.mkv");
  ffmpeg("-f", "lavfi", "-i", source, "-vf", "setpts='N*N/200/TB'", "-fps_mode", "passthrough", ...x264, "vfr.mp4");
  ffmpeg("-f", "lavfi", "-i", source, "-c:v", "mpeg2video", "stream.ts");
  ffmpeg("-f", "lavfi", "-i", source, "-frames:v", "1", "still.png");
  ffmpeg("-f", "lavfi", "-i", source, "-frames:v", "1", "still.jpg");
  ffmpeg("-f", "lavfi", "-i", "color=red:size=2x2", "-vf", "scale=1:1", "-frames:v", "1", "dot.png");
  ffmpeg("-f", "lavfi", "-i", "sine=d=1", "-c:a", "aac", "-f", "mp4", "only-sound.mp4");
  ffmpeg(
    "-f",
    "lavfi",
    "-i",
    "sine=d=1",
    "-i",
    "still.png",
    "-map",
    "0",
    "-map",
    "1",
    "-c:v",
    "png",
    "-c:a",
    "aac",
    "-disposition:v",
    "attached_pic",
    "cover.mp4",
  );
  turn("silent.mp4", "turned.mp4");
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const toRemove: (() => void)[] = [];
afterEach(() => {
  for (const remove of toRemove.splice(0)) remove();
});
const contextFor = (
  options: TestContextOptions,
  uploads: readonly (readonly [string, { path: string } | { bytes: Buffer | string }])[] = [],
): TestContext => {
  const made = createTestContext({ stage: "media_collection", ...options });
  toRemove.push(made.remove);
  made.addInput("script_generation", "script.txt", { bytes: "Some words. ".repeat(30) });
  for (const [name, from] of uploads) made.addInput("", name, from);
  return made;
};
const itemsOf = (end: StageEnd): SceneItem[] => end.result.items as SceneItem[];
const failureOf = async (run: Promise<unknown>): Promise<StageFailure> => {
  const error = await run.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(StageFailure);
  return error as StageFailure;
};
const stage = createMediaStage({ ttsProvider: "espeak" });

describe("uploads", () => {
  test("odd, silent, turned, one-frame and variable-rate video and pictures become scenes with their facts", async () => {
    const names = [
      "sound.mp4",
      "silent.mp4",
      "one-frame.mp4",
      "odd.mkv",
      "vfr.mp4",
      "stream.ts",
      "turned.mp4",
      "still.png",
      "still.jpg",
      "dot.png",
    ];
    const made = contextFor(
      {},
      names.map((name) => [name, inFolder(name)]),
    );
    const end = await stage.run(made.context);
    const facts = itemsOf(end).map(({ name, source, media, width, height }) => [
      name,
      source,
      media,
      `${width}x${height}`,
    ]);
    expect(facts).toEqual([
      ["scene-000.mp4", "upload", "video", "64x48"],
      ["scene-001.mp4", "upload", "video", "64x48"],
      ["scene-002.mp4", "upload", "video", "64x48"],
      ["scene-003.mkv", "upload", "video", "63x47"],
      ["scene-004.mp4", "upload", "video", "64x48"],
      ["scene-005.ts", "upload", "video", "64x48"],
      ["scene-006.mp4", "upload", "video", "48x64"],
      ["scene-007.png", "upload", "picture", "64x48"],
      ["scene-008.jpg", "upload", "picture", "64x48"],
      ["scene-009.png", "upload", "picture", "1x1"],
    ]);
    const durations = itemsOf(end).map((item) => item.duration);
    expect(durations[0]).toBeCloseTo(1, 1);
    expect(durations[2]).toBeCloseTo(0.1, 2);
    expect(durations[7]).toBe(0);
    for (const [index, output] of end.outputs.entries())
      expect(
        readFileSync(path.join(made.dir, output.path)).equals(readFileSync(path.join(folder, names[index] ?? ""))),
      ).toBe(true);
  });

  test("request.media orders them, by the caller's names, and the rest follows", async () => {
    const request = {
      media: ["été 'x' 100%: \"b\".png", "c.png", "été 'x' 100%: \"b\".png"],
      media_names: { "ete-x.png": "été 'x' 100%: \"b\".png" },
    };
    const made = contextFor({ request }, [
      ["a.jpg", inFolder("still.jpg")],
      ["ete-x.png", inFolder("still.png")],
      ["c.png", inFolder("dot.png")],
    ]);
    const end = await stage.run(made.context);
    expect(itemsOf(end).map((item) => [item.name, item.original])).toEqual([
      ["scene-000.png", request.media[0]],
      ["scene-001.png", "c.png"],
      ["scene-002.png", request.media[0]],
      ["scene-003.jpg", "a.jpg"],
    ]);
    // The same file twice is looked at once, and no step or argument carries a caller's name.
    expect(made.steps).toHaveLength(3);
    expect(JSON.stringify(made.steps.map((step) => step.spec))).not.toContain("t\u00e9");
  });

  test("a name in request.media that was not uploaded is input_missing", async () => {
    const made = contextFor({ request: { media: ["gone.mp4"] } }, [["a.png", inFolder("still.png")]]);
    const failure = await failureOf(stage.run(made.context));
    expect(failure.failureClass).toBe("input_missing");
    expect(failure.message).toBe(
      'request.media[0] is "gone.mp4", but no file of this name was uploaded with the job. Upload it or leave it out.',
    );
  });

  test("more scenes than a result can hold are input_invalid", async () => {
    const request = { media: Array.from({ length: 100 }, () => "a.png") };
    const made = contextFor({ request }, [
      ["a.png", inFolder("still.png")],
      ["b.png", inFolder("dot.png")],
    ]);
    const failure = await failureOf(stage.run(made.context));
    expect(failure.failureClass).toBe("input_invalid");
    expect(failure.message).toContain("make 101 scenes, the limit is 100");
  });

  const secret = "#EXTM3U\n#EXTINF:1,\n/etc/passwd\n#EXT-X-ENDLIST\n";
  const bad: readonly (readonly [string, () => { path: string } | { bytes: Buffer | string }, string, string])[] = [
    [
      "zero bytes",
      () => ({ bytes: "" }),
      "input_corrupt",
      'The uploaded file "bad.mp4" is empty (0 bytes). Upload it again.',
    ],
    [
      "a text file named .mp4",
      () => ({ bytes: "hello, I am text" }),
      "input_refused",
      'The uploaded file "bad.mp4" is text.',
    ],
    [
      "a playlist named .mp4",
      () => ({ bytes: secret }),
      "input_refused",
      'The uploaded file "bad.mp4" is an HLS playlist. Lists that name other files are never opened.',
    ],
    [
      "a concat list named .mp4",
      () => ({ bytes: "ffconcat version 1.0\nfile /etc/passwd\n" }),
      "input_refused",
      "is a concat list",
    ],
    [
      "random bytes",
      () => ({ bytes: Buffer.from(Array.from({ length: 5000 }, (_, i) => (i * i * 7) % 251)) }),
      "input_refused",
      "of a type that is not known",
    ],
    [
      "a truncated MP4",
      () => ({ bytes: readFileSync(path.join(folder, "silent.mp4")).subarray(0, 900) }),
      "input_corrupt",
      "cannot be read: ",
    ],
    [
      "an MP4 of a header and noise",
      () => ({
        bytes: Buffer.concat([readFileSync(path.join(folder, "silent.mp4")).subarray(0, 40), Buffer.alloc(3000, 7)]),
      }),
      "input_corrupt",
      "Export it again",
    ],
    [
      "a damaged PNG",
      () => ({ bytes: readFileSync(path.join(folder, "still.png")).subarray(0, 60) }),
      "input_corrupt",
      "has no picture that can be decoded",
    ],
    ["only sound", () => inFolder("only-sound.mp4"), "input_refused", "has no picture, only sound"],
    ["sound with a cover", () => inFolder("cover.mp4"), "input_refused", "has no picture, only sound"],
    [
      "sound",
      () => ({ bytes: Buffer.concat([Buffer.from("ID3"), Buffer.alloc(100)]) }),
      "input_refused",
      "is sound without a picture",
    ],
  ];
  for (const [name, from, failureClass, message] of bad)
    test(`${name} is ${failureClass} and the message names the file`, async () => {
      const made = contextFor({}, [["bad.mp4", from()]]);
      const failure = await failureOf(stage.run(made.context));
      expect(failure.failureClass).toBe(failureClass);
      expect(failure.message).toContain('The uploaded file "bad.mp4"');
      expect(failure.message).toContain(message);
      expect(failure.message).not.toContain(made.dir);
    });

  for (const side of [12_000, 60_000])
    test(`a picture of ${side} x ${side} would not fit into memory and is refused before it is decoded`, async () => {
      const head = readFileSync(path.join(folder, "still.png"));
      head.writeUInt32BE(side, 16);
      head.writeUInt32BE(side, 20);
      head.writeUInt32BE(crc32(head.subarray(12, 29)), 29);
      const failure = await failureOf(stage.run(contextFor({}, [["big.png", { bytes: head }]]).context));
      expect(failure.failureClass).toBe("input_refused");
      expect(failure.message).toBe(
        'The uploaded file "big.png" has more than 64 megapixels a frame. Send it smaller, 3840x2160 is plenty.',
      );
    });

  test("ffprobe may read files only, with a forced demuxer", async () => {
    const made = contextFor({}, [["a.mkv", inFolder("odd.mkv")]]);
    await stage.run(made.context);
    const args = made.steps[0]?.spec.args ?? [];
    expect(args.join(" ")).toContain("-protocol_whitelist file -f matroska ");
    expect(args.at(-1)).toBe("inputs/001");
  });

  test("ffprobe missing is missing_program with the command that installs it", async () => {
    const made = contextFor({ programs: { ffprobe: "/nonexistent/ffprobe" } }, [["a.png", inFolder("still.png")]]);
    const failure = await failureOf(stage.run(made.context));
    expect(failure.failureClass).toBe("missing_program");
    expect(failure.message).toContain("apt-get install ffmpeg");
  });
});

describe("without uploads", () => {
  test("backgrounds are drawn: 3 to 6, one for 8 s of script, the same for the same job, none black", async () => {
    const made = contextFor({ jobId: "job-1" });
    const end = await stage.run(made.context);
    // 360 characters are 24 s.
    expect(itemsOf(end)).toHaveLength(3);
    expect(itemsOf(end)[0]).toEqual({
      name: "scene-000.png",
      source: "generated",
      media: "picture",
      duration: 0,
      width: 1920,
      height: 1080,
    });
    const again = contextFor({ jobId: "job-1" });
    await stage.run(again.context);
    const bytesOf = (from: TestContext) => readFileSync(path.join(from.dir, "scene-000.png"));
    expect(bytesOf(made).equals(bytesOf(again))).toBe(true);
    expect(planBackgrounds("job-1", 1)[0]?.source).not.toBe(planBackgrounds("job-2", 1)[0]?.source);
    const luma = execFileSync(
      "ffmpeg",
      ["-v", "error", "-i", "scene-000.png", "-vf", "scale=16:9,format=gray", "-f", "rawvideo", "-"],
      { cwd: made.dir },
    );
    expect(Math.min(...luma)).toBeGreaterThan(20);
    expect(Math.max(...luma)).toBeLessThan(220);
  });

  test("the plan of backgrounds holds nothing but numbers and colours, for any seed", () => {
    for (let seed = 0; seed < 200; seed++)
      for (const { source } of planBackgrounds(`job-${seed}'"; [x]`, 6))
        expect(source).toMatch(
          /^gradients=size=1920x1080:rate=25:seed=\d:n=3(:c\d=0x[0-9a-f]{6}){3}(:[xy][01]=\d+){4}:type=[01],format=yuv444p,noise=c0s=4:c0_seed=\d:c0f=u,format=rgb24$/,
        );
  });

  test("a longer script gets more backgrounds, never more than six", async () => {
    const made = createTestContext({ stage: "media_collection" });
    toRemove.push(made.remove);
    made.addInput("script_generation", "script.txt", { bytes: "word ".repeat(4_000) });
    expect(itemsOf(await stage.run(made.context))).toHaveLength(6);
  });

  test("the library is searched by keyword in the file names; bad files and links are passed over", async () => {
    const library = path.join(folder, "library");
    mkdirSync(path.join(library, "towns"), { recursive: true });
    for (const [name, from] of [
      ["Bee_on flower-01.png", "still.png"],
      ["bees.mp4", "silent.mp4"],
      ["towns/City at night.jpg", "still.jpg"],
      ["frisbee.png", "still.png"],
    ] as const)
      writeFileSync(path.join(library, name), readFileSync(path.join(folder, from)));
    writeFileSync(path.join(library, "bee-list.mp4"), secretList);
    symlinkSync("/etc/passwd", path.join(library, "bee-link.png"));
    const made = contextFor({ request: { keywords: ["Bee", "night city", "third is ignored"] } });
    const end = await createMediaStage({ ttsProvider: "espeak", mediaLibrary: library }).run(made.context);
    expect(itemsOf(end).map((item) => [item.name, item.source, item.original])).toEqual([
      ["scene-000.png", "library", "Bee_on flower-01.png"],
      ["scene-001.jpg", "library", "City at night.jpg"],
      ["scene-002.mp4", "library", "bees.mp4"],
    ]);
    // The library may change between two starts of the agent; the finished steps may not.
    rmSync(library, { recursive: true });
    const replayed = made.again();
    const stageAgain = createMediaStage({ ttsProvider: "espeak", mediaLibrary: library });
    expect(itemsOf(await stageAgain.run(replayed.context))).toEqual(itemsOf(end));
  });

  test("a library without a match leads to backgrounds; one that cannot be read is a fault of the host", async () => {
    const library = path.join(folder, "empty-library");
    mkdirSync(library);
    const made = contextFor({});
    const end = await createMediaStage({ ttsProvider: "espeak", mediaLibrary: library }).run(made.context);
    expect(itemsOf(end)[0]?.source).toBe("generated");
    const gone = createMediaStage({ ttsProvider: "espeak", mediaLibrary: path.join(folder, "gone") });
    const failure = await failureOf(gone.run(contextFor({}).context));
    expect(failure.failureClass).toBe("host_fault");
    expect(failure.message).toContain("RENDERPLANE_MEDIA_LIBRARY");
  });
});

const secretList = "ffconcat version 1.0\nfile /etc/passwd\n";
