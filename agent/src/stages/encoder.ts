// Which H.264 encoder a stage uses, its options, and the way back to the CPU when the GPU refuses.
// A GPU is used only when the allocation holds it and the inventory proved its encoder; the CPU can always do the work,
// so trouble that belongs to the GPU costs time and never the job. The result says which one did it.

import type { FailureClass } from "@renderplane/proto/kernel/failure.ts";
import { classify, failOn } from "../domain/exit.ts";
import type { FfmpegPlan } from "../machine/ffmpeg.ts";
import { ffmpegArguments } from "../machine/ffmpeg.ts";
import type { ProcessEnd, ProcessSpec, StageContext } from "../work/contract.ts";

export type Encoder = "libx264" | "h264_nvenc";
export const x264Presets = ["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow"] as const;
export type X264Preset = (typeof x264Presets)[number];

export const chooseEncoder = (context: Pick<StageContext, "gpuUuid" | "inventory">): Encoder =>
  context.gpuUuid !== "" &&
  context.inventory.gpus.some((gpu) => gpu.uuid === context.gpuUuid && gpu.workingEncoders.includes("h264_nvenc"))
    ? "h264_nvenc"
    : "libx264";

/** Before the -i of a clip: the GPU decodes where it can and hands frames to the filters; FFmpeg falls back by itself. */
export const decoderOptions = (encoder: Encoder): string[] => (encoder === "h264_nvenc" ? ["-hwaccel", "cuda"] : []);

export type VideoQuality =
  | { readonly kind: "constant"; readonly crf: number; readonly maxKbps: number }
  | { readonly kind: "bitrate"; readonly kbps: number };

/** H.264 High, 4:2:0, closed GOP of two seconds, BT.709. */
export const videoOptions = (
  encoder: Encoder,
  options: {
    readonly quality: VideoQuality;
    readonly preset: X264Preset;
    readonly gopFrames: number;
    readonly threads: number;
  },
): string[] => {
  const { quality } = options;
  const maxKbps = quality.kind === "constant" ? quality.maxKbps : Math.round(quality.kbps * 1.5);
  const bound = ["-maxrate", `${maxKbps}k`, "-bufsize", `${maxKbps * 2}k`];
  const rate = quality.kind === "bitrate" ? ["-b:v", `${quality.kbps}k`] : [];
  const common = ["-profile:v", "high", "-pix_fmt", "yuv420p", "-g", String(options.gopFrames), "-bf", "2"];
  // One device is visible (CUDA_VISIBLE_DEVICES), so index 0 is the one that the allocation holds; `any` would try others.
  return encoder === "h264_nvenc"
    ? [
        ...["-c:v", "h264_nvenc", "-gpu", "0", "-preset", "p7", "-rc", "vbr"],
        ...(quality.kind === "constant" ? ["-cq", String(quality.crf + 1), "-b:v", "0"] : rate),
        ...bound,
        ...common,
      ]
    : [
        ...["-c:v", "libx264", "-preset", options.preset, "-threads", String(options.threads)],
        ...(quality.kind === "constant" ? ["-crf", String(quality.crf)] : rate),
        ...bound,
        ...common,
        // ultrafast turns the 8x8 transform off, and without it the stream is Main and not High.
        ...["-flags", "+cgop", "-8x8dct", "1"],
      ];
};

export const colorTags = [
  "-color_primaries",
  "bt709",
  "-color_trc",
  "bt709",
  "-colorspace",
  "bt709",
  "-color_range",
  "tv",
];

/** Classes that say "not on this GPU" and nothing about the job. */
const gpuTrouble: ReadonlySet<FailureClass> = new Set<FailureClass>([
  "encoder_unavailable",
  "encoder_sessions",
  "gpu_oom",
  "gpu_lost",
  "driver",
]);

export type Encoded = {
  readonly end: ProcessEnd;
  readonly encoder: Encoder;
  /** Why the GPU was not used although it was held; "" otherwise. */
  readonly fallback: string;
};

/** Runs `plan(encoder)` as step `name`; after trouble of the GPU runs the plan of the CPU as step `<name>-cpu`. */
export const encode = async (
  context: StageContext,
  name: string,
  what: string,
  progress: NonNullable<ProcessSpec["progress"]>,
  plan: (encoder: Encoder) => FfmpegPlan,
): Promise<Encoded> => {
  const run = async (step: string, encoder: Encoder): Promise<ProcessEnd> =>
    context.process(step, { program: "ffmpeg", args: await ffmpegArguments(plan(encoder)), progress });
  const first = chooseEncoder(context);
  const end = await run(name, first);
  if (first === "libx264") {
    failOn(end, what);
    return { end, encoder: first, fallback: "" };
  }
  const trouble = classify({ program: what, ...end });
  if (trouble === undefined) return { end, encoder: first, fallback: "" };
  if (!gpuTrouble.has(trouble.failureClass)) failOn(end, what);
  context.log.warn({ failureClass: trouble.failureClass, rule: trouble.ruleId }, "GPU encoder failed, using the CPU");
  const again = await run(`${name}-cpu`, "libx264");
  failOn(again, what);
  return { end: again, encoder: "libx264", fallback: `${trouble.failureClass}: ${trouble.message}` };
};
