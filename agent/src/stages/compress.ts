// Stage kind `compress`: the merged file as it goes out, video.mp4: H.264 High and AAC with the index in front, by the plan of
// transcode. It keeps every frame where segments.json says it is, and hands that file on unchanged beside the video.
// What it made counts only when it has those frames, those streams and that order of boxes.
import path from "node:path";
import { z } from "zod";
import { type StageContext, StageFailure, type StageKind } from "../work/contract.ts";
import { type Check, holds, same, within } from "./checks.ts";
import { encode } from "./encoder.ts";
import { inputOf, readFields } from "./fields.ts";
import { mergedName, segmentsName } from "./merge.ts";
import { intermediateOf, intermediatesSchema, sampleRate } from "./merge-clips.ts";
import { isFastStart } from "./mp4-boxes.ts";
import { placeFile } from "./place-file.ts";
import { probe, type VideoFacts } from "./probe.ts";
import { transcodeParams } from "./transcode.ts";
import { type RenditionSize, renditionSize, transcodePlan } from "./transcode-plan.ts";

export const compressedName = "video.mp4";
const mergingResult = z.object({
  frames: z.number().int().min(1),
  fps: z.number().positive(),
  clips: z.number().int().min(1),
  intermediates: intermediatesSchema,
});
/** Two AAC frames: the encoder ends on a whole one. */
const soundSlackSeconds = 0.045;

export const compressStage: StageKind = {
  kind: "compress",
  run: async (context) => {
    const params = readFields(transcodeParams, context.params, "params");
    const merging = readFields(mergingResult, context.results.merging, "results.merging");
    const merged = inputOf(context, "merging", mergedName);
    const segments = inputOf(context, "merging", segmentsName);
    const media = await probe(context, "probe-source", merged.path, mergedName);
    const { video } = media;
    if (video === undefined)
      throw new StageFailure("input_corrupt", `${mergedName} has no picture. Run merging again.`);
    const size = renditionSize(video, linesFor(video, params.height));
    const seconds = merging.frames / merging.fps;
    const encoded = await encode(
      context,
      "compress",
      "the compression",
      { label: "compressing", totalMs: seconds * 1000, from: 0.02, to: 0.95 },
      (encoder) =>
        transcodePlan({
          source: { path: merged.path, media, video },
          size,
          settings: params,
          encoder,
          threads: context.threads,
          output: compressedName,
        }),
    );
    await verify(context, size, merging.frames, seconds);
    await placeFile(path.join(context.dir, segments.path), path.join(context.dir, segmentsName));
    context.progress({ fraction: 1, step: "compressed" });
    return {
      result: {
        width: size.width,
        height: size.height,
        duration: seconds,
        frames: merging.frames,
        fps: merging.fps,
        clips: merging.clips,
        encoder: encoded.encoder,
        resource_used: encoded.encoder === "h264_nvenc" ? "gpu" : "cpu",
        ...(encoded.fallback === "" ? {} : { gpu_fallback: encoded.fallback.slice(0, 500) }),
        intermediates: [...merging.intermediates, intermediateOf(merged)],
      },
      outputs: [
        { name: compressedName, path: compressedName, mediaType: "video/mp4" },
        { name: segmentsName, path: segmentsName, mediaType: "application/json" },
      ],
    };
  },
};

/** `height` means the lines of a lying video; a standing one is bound by its width instead, as 1080p is on a telephone. */
export const linesFor = (video: Pick<VideoFacts, "width" | "height">, height: number): number =>
  video.height <= video.width ? height : Math.round((height * video.height) / video.width);

const verify = async (context: StageContext, size: RenditionSize, frames: number, seconds: number): Promise<void> => {
  const { video, audio } = await probe(context, "verify", compressedName, compressedName, { countPackets: true });
  const fast = await isFastStart(path.join(context.dir, compressedName));
  const checks: Check[] = [
    same("video_codec", `${video?.codec ?? "none"} ${video?.profile ?? ""}`, "h264 High"),
    same("pixel_format", video?.pixelFormat ?? "", "yuv420p"),
    same("color_space", video?.colorSpace ?? "", "bt709"),
    same("resolution", `${video?.width ?? 0}x${video?.height ?? 0}`, `${size.width}x${size.height}`),
    same("frames", video?.packets ?? 0, frames),
    same("audio", `${audio?.codec ?? "none"} ${audio?.sampleRate ?? 0} ${audio?.channels ?? 0}`, `aac ${sampleRate} 2`),
    within("audio_duration", audio?.durationSeconds ?? 0, seconds, soundSlackSeconds, "s", 3),
    holds("faststart", fast, fast ? "moov before mdat" : "moov behind mdat or missing", "moov before mdat"),
  ];
  const wrong = checks.filter((check) => !check.ok);
  if (wrong.length > 0)
    throw new StageFailure(
      "output_invalid",
      `${compressedName}: ${wrong.map((check) => `${check.name} is ${check.value}, expected ${check.bound}`).join("; ")}.`,
    );
};
