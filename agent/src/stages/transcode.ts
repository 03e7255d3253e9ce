// Stage kind `transcode`: the one uploaded file as one rendition, rendition-<height>.mp4. The upload is looked into first, so a
// playlist or a text under a video's name is refused by the caller's name; the output is looked into last, because FFmpeg ends
// well on a cut input. A source smaller than the rendition keeps its own size, and the result says so.
import { z } from "zod";
import { type InputFile, type StageContext, StageFailure, type StageKind } from "../work/contract.ts";
import { encode, x264Presets } from "./encoder.ts";
import { readFields } from "./fields.ts";
import { type MediaFacts, probe, type VideoFacts } from "./probe.ts";
import { probeMedia } from "./probe-media.ts";
import { renditionSize, transcodePlan } from "./transcode-plan.ts";

export const transcodeParams = z.object({
  height: z.number().int().min(2).max(4320).multipleOf(2),
  videoKbps: z.number().int().min(32).max(200_000),
  audioKbps: z.number().int().min(16).max(512).default(128),
  preset: z.enum(x264Presets).default("veryfast"),
});
const namesOfUploads = z.object({ media_names: z.record(z.string(), z.string()).default({}) });

export const transcodeStage: StageKind = {
  kind: "transcode",
  run: async (context) => {
    const params = readFields(transcodeParams, context.params, "params");
    const { upload, label } = readUpload(context);
    const { media, video, seconds } = await readSource(context, upload, label);
    const size = renditionSize(video, params.height);
    const output = `rendition-${params.height}.mp4`;
    const encoded = await encode(
      context,
      "transcode",
      `the transcode to ${params.height} lines`,
      {
        label: `encoding ${params.height} lines`,
        ...(seconds > 0 ? { totalMs: seconds * 1000 } : {}),
        from: 0.02,
        to: 0.98,
      },
      (encoder) =>
        transcodePlan({
          source: { path: upload.path, media, video },
          size,
          settings: params,
          encoder,
          threads: context.threads,
          output,
        }),
    ).catch((error: unknown) => {
      throw error instanceof StageFailure && error.failureClass === "input_corrupt" ? damaged(label, error) : error;
    });
    const made = await probe(context, "verify", output, output, { countPackets: true });
    if (made.video?.width !== size.width || made.video.height !== size.height || !made.video.packets)
      throw new StageFailure(
        "output_invalid",
        `${output} has ${made.video?.packets ?? 0} frames of ${made.video?.width ?? 0}x${made.video?.height ?? 0}; planned were ${size.width}x${size.height}.`,
      );
    context.progress({ fraction: 1, step: "encoded" });
    return {
      result: {
        height: size.height,
        width: size.width,
        duration: made.durationSeconds ?? 0,
        frames: made.video.packets,
        size: made.sizeBytes,
        audio: made.audio !== undefined,
        encoder: encoded.encoder,
        resource_used: encoded.encoder === "h264_nvenc" ? "gpu" : "cpu",
        ...(encoded.fallback === "" ? {} : { gpu_fallback: encoded.fallback.slice(0, 500) }),
        ...(size.isReduced
          ? { note: `the source has only ${video.height} lines, so it was not enlarged to ${params.height}` }
          : {}),
      },
      outputs: [{ name: output, path: output, mediaType: "video/mp4" }],
    };
  },
};

/** The single upload of the job and how to name it to its caller. */
export const readUpload = (context: StageContext): { upload: InputFile; label: string } => {
  const uploads = context.inputs.filter((input) => input.stage === "");
  const [upload] = uploads;
  if (upload === undefined || uploads.length > 1)
    throw new StageFailure(
      upload === undefined ? "input_missing" : "input_invalid",
      `${uploads.length} files were uploaded, expected exactly one video. Send one file with the job.`,
    );
  const { media_names } = readFields(namesOfUploads, context.request, "request");
  return { upload, label: `The uploaded file ${JSON.stringify(media_names[upload.name] ?? upload.name)}` };
};

/** Looks by the first bytes, then by ffprobe. Throws input_refused or input_corrupt. */
export const readSource = async (
  context: StageContext,
  upload: InputFile,
  label: string,
): Promise<{ media: MediaFacts; video: VideoFacts; seconds: number }> => {
  const looked = await probeMedia(context, "look", upload.path, label);
  if (looked.media === "picture")
    throw new StageFailure("input_refused", `${label} is a picture, expected a video. Send a video file.`);
  const media = await probe(context, "probe-source", upload.path, label);
  if (media.video === undefined)
    throw new StageFailure("input_refused", `${label} has no picture, only sound. Send a video file.`);
  return { media, video: media.video, seconds: media.video.durationSeconds ?? media.durationSeconds ?? 0 };
};

/** Says by the caller's name of the file what FFmpeg said by a path. */
export const damaged = (label: string, error: StageFailure): StageFailure =>
  new StageFailure(
    "input_corrupt",
    `${label} is damaged or cut off. Export it again, check that it plays to its end, and upload it again.`,
    { evidence: error.evidence, exit: error.exit },
  );
