// The choice of the encoder and the GPU's plan as data; no GPU is needed and none is claimed to have run.
import type { Gpu, Inventory } from "@renderplane/proto/gen/renderplane/v1/types.ts";
import { describe, expect, test } from "vitest";
import { ffmpegArguments } from "../machine/ffmpeg.ts";
import { chooseEncoder, videoOptions } from "./encoder.ts";
import type { MediaFacts } from "./probe.ts";
import { renderPlan, type Scene } from "./render-plan.ts";
import { planTimeline } from "./timeline.ts";

const gpu = (uuid: string, workingEncoders: string[]): Gpu => ({
  uuid,
  name: "NVIDIA L4",
  memoryBytes: 24n,
  driverVersion: "580.1",
  workingEncoders,
});
const inventory = (...gpus: Gpu[]) => ({ gpus }) as Inventory;

describe("chooseEncoder", () => {
  const proved = gpu("GPU-a", ["h264_nvenc"]);
  const h100 = gpu("GPU-b", []);
  test.each([
    ["no GPU held", "", inventory(proved), "libx264"],
    ["held and proved", "GPU-a", inventory(proved, h100), "h264_nvenc"],
    ["held, but without an encoder", "GPU-b", inventory(proved, h100), "libx264"],
    ["held, but not in the inventory", "GPU-c", inventory(proved), "libx264"],
  ] as const)("%s", (_, gpuUuid, has, expected) => {
    expect(chooseEncoder({ gpuUuid, inventory: has })).toBe(expected);
  });
});

test("the plan for a GPU, as data: cuda decode of clips, h264_nvenc p7 on device 0, AAC 192k, the same graph as on the CPU", async () => {
  const video = {
    index: 0,
    codec: "h264",
    profile: "High",
    width: 1280,
    height: 720,
    rotation: 0,
    pixelAspect: 1,
    fps: 30,
    averageFps: 30,
    pixelFormat: "yuv420p",
    colorSpace: "bt709",
    frames: 300,
    packets: undefined,
    startSeconds: 0,
    durationSeconds: 10,
  };
  const media: MediaFacts = {
    demuxer: "mov",
    isPicture: false,
    durationSeconds: 10,
    sizeBytes: 1,
    streams: 1,
    video,
    audio: undefined,
  };
  const clip: Scene = { path: "inputs/002", label: "clip", media, video };
  const picture: Scene = { ...clip, path: "inputs/003", media: { ...media, demuxer: "png_pipe", isPicture: true } };
  const plan = (encoder: "libx264" | "h264_nvenc") =>
    ffmpegArguments(
      renderPlan({
        timeline: planTimeline(5, 2, 30),
        scenes: [clip, picture],
        settings: { width: 1920, height: 1080, preset: "veryfast" },
        narration: { path: "inputs/000", demuxer: "flac" },
        gainDb: 1.4,
        captions: "captions.ass",
        encoder,
        threads: 3,
        output: "video.mp4",
      }),
    );
  const [onGpu, onCpu] = [(await plan("h264_nvenc")).join(" "), (await plan("libx264")).join(" ")];
  expect(onGpu).toContain("-hwaccel cuda -protocol_whitelist file -f mov -i inputs/002");
  expect(onGpu).toContain("-protocol_whitelist file -f png_pipe -i inputs/003");
  expect(onGpu.match(/-hwaccel/g)?.length).toBe(1);
  expect(onGpu).toContain("-c:v h264_nvenc -gpu 0 -preset p7");
  expect(onGpu).toContain("-c:a aac -b:a 192k");
  expect(onCpu).toContain("-c:v libx264 -preset veryfast -threads 3 -crf 20");
  expect(onCpu).not.toContain("cuda");
  const graph = /-filter_complex (\S+)/;
  expect(graph.exec(onGpu)?.[1]).toBe(graph.exec(onCpu)?.[1]);
});

test("a bitrate has a ceiling of half as much again", () => {
  const options = videoOptions("libx264", {
    quality: { kind: "bitrate", kbps: 2_000 },
    preset: "fast",
    gopFrames: 60,
    threads: 1,
  });
  expect(options.join(" ")).toContain("-b:v 2000k -maxrate 3000k -bufsize 6000k");
});
