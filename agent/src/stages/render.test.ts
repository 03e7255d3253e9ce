// The render stage with real FFmpeg: ordinary material, every odd file that callers send, nasty captions, and the way back from
// a GPU that does not work. Pictures are small; one run at the product's size proves the product's settings.
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import type { Gpu } from "@renderplane/proto/gen/renderplane/v1/types.ts";
import { afterAll, afterEach, describe, expect, test } from "vitest";
import { StageFailure } from "../work/contract.ts";
import { probe } from "./probe.ts";
import { renderStage } from "./render.ts";
import { createTestContext, type TestContext, type TestContextOptions } from "./testing.ts";
import { createTestMedia, type MediaName, speak } from "./testing-media.ts";

const media = createTestMedia();
const contexts: TestContext[] = [];
afterEach(() => {
  for (const context of contexts.splice(0)) context.remove();
});
afterAll(() => media.remove());

const small = { width: 320, height: 180, fps: 30, preset: "ultrafast" };
const words = "It's 100% \"sure\": {\\b1}Ümläut{\\b0} C:\\Notes 'quoted'; ok?";

type Setup = TestContextOptions & {
  readonly scenes?: readonly (MediaName | { readonly path: string })[];
  readonly text?: string;
};
const setUp = ({ scenes = ["clip.mp4"], text = words, ...options }: Setup = {}): TestContext => {
  const fileOf = (scene: (typeof scenes)[number]) => (typeof scene === "string" ? media.make(scene) : scene.path);
  const nameOf = (i: number, file: string) => `scene-${String(i).padStart(3, "0")}${path.extname(file)}`;
  const items = scenes.map((scene, i) => ({
    name: nameOf(i, fileOf(scene)),
    original: `my ${path.basename(fileOf(scene))}`,
  }));
  const made = createTestContext({
    params: small,
    stage: "video_rendering",
    results: { media_collection: { items } },
    ...options,
  });
  contexts.push(made);
  made.addInput("audio_synthesis", "narration.flac", { path: speak(media) });
  const timings = [{ text, start_ms: 0, end_ms: 2_000 }];
  made.addInput("audio_synthesis", "timings.json", { bytes: JSON.stringify(timings) });
  for (const [i, scene] of scenes.entries()) {
    const file = fileOf(scene);
    made.addInput("media_collection", nameOf(i, file), { path: file });
  }
  return made;
};

const failureOf = async (made: TestContext): Promise<StageFailure> => {
  const failure = await renderStage.run(made.context).then(
    () => undefined,
    (error: unknown) => error,
  );
  expect(failure).toBeInstanceOf(StageFailure);
  return failure as StageFailure;
};

/** RGB of one pixel of the frame at `seconds`. */
const pixelAt = (dir: string, seconds: number, x: number, y: number): number[] => {
  const args = `-v error -nostdin -ss ${seconds} -i video.mp4 -vf crop=2:2:${x}:${y},scale=1:1,format=rgb24 -frames:v 1 -f rawvideo -`;
  return [...spawnSync("ffmpeg", args.split(" "), { cwd: dir }).stdout];
};

const gpu: Gpu = {
  uuid: "GPU-11111111-2222-3333-4444-555555555555",
  name: "NVIDIA L4",
  memoryBytes: 24n * 1024n ** 3n,
  driverVersion: "580.1",
  workingEncoders: ["h264_nvenc"],
};

describe("render", () => {
  test("[S160] the product's settings: 1920x1080, 30 fps, H.264 High, AAC 48 kHz stereo, faststart", async () => {
    const made = setUp({ params: {}, scenes: ["clip.mp4", "picture.jpg"] });
    const { result, outputs } = await renderStage.run(made.context);
    expect(outputs.map((output) => output.name)).toEqual(["video.mp4", "captions.srt"]);
    expect(result).toMatchObject({
      video_file: "video.mp4",
      resolution: "1920x1080",
      resource_used: "cpu",
      encoder: "libx264",
      fps: 30,
    });
    const facts = await probe(made.context, "test-probe", "video.mp4", "video.mp4", { countPackets: true });
    expect(facts.video).toMatchObject({
      codec: "h264",
      profile: "High",
      width: 1920,
      height: 1080,
      fps: 30,
      pixelFormat: "yuv420p",
      colorSpace: "bt709",
      packets: result.frames,
    });
    expect(facts.audio).toMatchObject({ codec: "aac", sampleRate: 48_000, channels: 2 });
    expect(facts.streams).toBe(2);
    expect(Math.abs((facts.durationSeconds ?? 0) - Number(result.duration))).toBeLessThan(0.05);
    const head = readFileSync(path.join(made.dir, "video.mp4"))
      .subarray(0, 64 * 1024)
      .toString("latin1");
    expect(head.indexOf("moov")).toBeGreaterThan(0);
    expect(head.indexOf("moov")).toBeLessThan(
      head.indexOf("mdat") < 0 ? Number.POSITIVE_INFINITY : head.indexOf("mdat"),
    );
  }, 60_000);

  test.each([
    ["a video without sound", ["no-audio.mp4"]],
    ["a video of one frame", ["one-frame.mp4"]],
    ["odd dimensions and 4:4:4", ["odd.mkv"]],
    ["a variable frame rate", ["variable-rate.mkv"]],
    ["a portrait clip and non-square pixels", ["portrait.mp4", "anamorphic.mp4"]],
    ["a picture of odd size and one with alpha", ["picture.jpg", "alpha.png"]],
    ["a picture of 1x1 and one of 3x2000", ["dot.png", "strip.png"]],
    ["an animation", ["animation.gif"]],
  ] as const)("[S160] renders %s to exactly the planned frames", async (_, scenes) => {
    const made = setUp({ scenes });
    const { result } = await renderStage.run(made.context);
    // ceil((speech + half a second) * 30); the stage itself compared the file with this plan.
    const speech = (await probe(made.context, "test-probe", "inputs/000", "speech")).durationSeconds ?? 0;
    expect(result).toMatchObject({ frames: Math.ceil((speech + 0.5) * 30), scenes_shown: scenes.length });
  });

  test("rotation metadata is followed: what the telephone showed as upright fills the picture upright", async () => {
    const red = media.run("half.mp4", [
      ..."-f lavfi -i color=red:s=320x180:d=3 -vf drawbox=x=160:w=160:color=blue:t=fill -c:v libx264 -preset ultrafast -pix_fmt yuv420p".split(
        " ",
      ),
    ]);
    const turned = media.run("turned.mp4", ["-i", red, "-c", "copy", "-metadata:s:v:0", "rotate=90"]);
    const made = setUp({ scenes: [{ path: turned }], request: { captions: false } });
    await renderStage.run(made.context);
    // Left and right became top and bottom.
    const [top, bottom] = [pixelAt(made.dir, 1, 160, 10), pixelAt(made.dir, 1, 160, 168)];
    expect(Math.abs((top[0] ?? 0) - (bottom[0] ?? 0))).toBeGreaterThan(100);
    expect(pixelAt(made.dir, 1, 10, 10)).toEqual(pixelAt(made.dir, 1, 300, 10));
  });

  test("colours of a picture stay what they were", async () => {
    const picture = media.run("ochre.png", "-f lavfi -i color=0xC4A35A:s=320x180,format=rgb24 -frames:v 1".split(" "));
    const made = setUp({ scenes: [{ path: picture }], request: { captions: false } });
    await renderStage.run(made.context);
    const [red, green, blue] = pixelAt(made.dir, 1, 100, 100);
    expect(Math.abs((red ?? 0) - 196)).toBeLessThanOrEqual(4);
    expect(Math.abs((green ?? 0) - 163)).toBeLessThanOrEqual(4);
    expect(Math.abs((blue ?? 0) - 90)).toBeLessThanOrEqual(4);
  });

  test("captions are burned in when wanted, and written beside the video always", async () => {
    const black = media.run("black.png", "-f lavfi -i color=black:s=320x180,format=rgb24 -frames:v 1".split(" "));
    const brightest = (made: TestContext): number => {
      const ran = spawnSync(
        "ffmpeg",
        "-v info -nostdin -ss 0.5 -i video.mp4 -vf signalstats,metadata=print:key=lavfi.signalstats.YMAX -frames:v 1 -f null -".split(
          " ",
        ),
        { cwd: made.dir, encoding: "utf8" },
      );
      return Number(/YMAX=(\d+)/.exec(ran.stderr)?.[1]);
    };
    const burned = setUp({ scenes: [{ path: black }] });
    const plain = setUp({ scenes: [{ path: black }], request: { captions: false } });
    await renderStage.run(burned.context);
    await renderStage.run(plain.context);
    expect(brightest(burned)).toBeGreaterThan(150);
    expect(brightest(plain)).toBeLessThan(30);
    for (const made of [burned, plain])
      expect(readFileSync(path.join(made.dir, "captions.srt"), "utf8")).toContain(`It's 100% "sure":`);
  });

  test("no text of the caller and no path outside the folder is ever an argument", async () => {
    const made = setUp();
    await renderStage.run(made.context);
    const args = made.steps.flatMap((step) => step.spec.args);
    expect(args.join(" ")).not.toMatch(/Ümläut|quoted|my clip/);
    expect(args.filter((arg) => arg.includes(made.dir))).toEqual([]);
    for (const step of made.steps) {
      const whitelisted = step.spec.args.filter((arg) => arg === "-protocol_whitelist").length;
      const inputs = step.spec.program === "ffmpeg" ? step.spec.args.filter((arg) => arg === "-i").length : 1;
      expect(whitelisted, step.name).toBe(inputs);
    }
  });

  test("a replay after a restart starts nothing again and ends the same", async () => {
    const made = setUp();
    const first = await renderStage.run(made.context);
    const started = made.steps.length;
    const second = await renderStage.run(made.again().context);
    expect(second).toEqual(first);
    expect(made.steps.length).toBe(started);
  });

  test("[S160] a GPU that was proved and then fails costs time, not the job: the CPU renders and the result says so", async () => {
    const made = setUp({ gpuUuid: gpu.uuid, inventory: { gpus: [gpu] } });
    const { result } = await renderStage.run(made.context);
    expect(made.steps.map((step) => step.name)).toContain("render-cpu");
    expect(result).toMatchObject({ resource_used: "cpu", encoder: "libx264" });
    expect(result.gpu_fallback).toMatch(/^(encoder_unavailable|driver): /);
  });
});

describe("render refuses", () => {
  test("[S160] a truncated clip, by the caller's name, with FFmpeg's own words", async () => {
    const failure = await failureOf(setUp({ scenes: ["clip.mp4", "truncated.mp4"] }));
    expect(failure.failureClass).toBe("input_corrupt");
    expect(failure.message).toMatch(/^The uploaded file "my truncated.mp4" is damaged or cut off\. /);
    expect(failure.evidence).toContain("partial file");
  });

  test("a file that is no media, by the caller's name", async () => {
    const made = setUp({ scenes: ["music.mp3"] });
    const failure = await failureOf(made);
    expect(failure).toMatchObject({ failureClass: "input_refused" });
    expect(failure.message).toBe(
      'The uploaded file "my music.mp3" has no picture. Upload a video or a picture in its place.',
    );
  });

  test("params that no encoder takes, naming the field", async () => {
    const failure = await failureOf(setUp({ params: { width: 321 } }));
    expect(failure.failureClass).toBe("input_invalid");
    expect(failure.message).toMatch(/^params\.width: /);
  });

  test("no scenes at all", async () => {
    const failure = await failureOf(setUp({ scenes: [] }));
    expect(failure).toMatchObject({ failureClass: "input_missing" });
  });

  test("a full disk is a failure although the trailer may exit with 0", async () => {
    const made = setUp();
    // /dev/full answers every write with ENOSPC.
    spawnSync("ln", ["-s", "/dev/full", path.join(made.dir, "video.mp4")]);
    const failure = await failureOf(made);
    expect(failure.failureClass).toBe("disk_full");
    expect(existsSync(path.join(made.dir, "captions.srt"))).toBe(true);
  });
});
