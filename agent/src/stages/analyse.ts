// Stage kind `analyse`: what each clip of a merge is (ffprobe) and how loud it is (one pass over its sound), and from all of them
// the common target. It changes no clip; a clip that cannot be read or heard to its end fails here, by the caller's name of it.
import { writeFile } from "node:fs/promises";
import path from "node:path";
import { failOn } from "../domain/exit.ts";
import { ffmpegArguments } from "../machine/ffmpeg.ts";
import { type StageContext, StageFailure, type StageKind } from "../work/contract.ts";
import { readFields } from "./fields.ts";
import { inParallel } from "./in-parallel.ts";
import { type Loudness, measure, parseLoudness } from "./loudness.ts";
import { type Clip, mergeRequest, numbered, readClips } from "./merge-clips.ts";
import { commonTarget } from "./merge-target.ts";
import { type MediaFacts, probe, safeInput, type VideoFacts } from "./probe.ts";
import { damaged } from "./transcode.ts";

const analysisName = "analysis.json";
/** Where no header says the rate. */
const usualFps = 30;

type Analysed = {
  readonly clip: Clip;
  readonly media: MediaFacts;
  readonly video: VideoFacts;
  readonly fps: number;
  readonly loudness: Loudness | undefined;
};

export const analyseStage: StageKind = {
  kind: "analyse",
  run: async (context) => {
    const request = readFields(mergeRequest, context.request, "request");
    const clips = readClips(context);
    let done = 0;
    // One process a core: a probe and a decode of sound each keep about one busy.
    const analysed = await inParallel(clips, context.threads, async (clip, index) => {
      const one = await analyseClip(context, clip, index);
      done += 1;
      context.progress({ fraction: done / clips.length, step: `analysed ${done} of ${clips.length} clips` });
      return one;
    });
    const target = commonTarget(
      analysed.map(({ video, fps }) => ({ ...video, fps })),
      request,
    );
    const report = { target, clips: analysed.map(reportOf) };
    await writeFile(path.join(context.dir, analysisName), `${JSON.stringify(report, null, 2)}\n`);
    return {
      result: {
        target,
        clips: report.clips.map(({ name, original, duration, loudness }) => ({ name, original, duration, loudness })),
        duration: report.clips.reduce((sum, clip) => sum + clip.duration, 0),
      },
      outputs: [{ name: analysisName, path: analysisName, mediaType: "application/json" }],
    };
  },
};

const analyseClip = async (context: StageContext, clip: Clip, index: number): Promise<Analysed> => {
  const media = await probe(context, numbered("probe", index), clip.input.path, clip.label);
  const { video } = media;
  if (video === undefined || media.isPicture)
    throw new StageFailure(
      "input_refused",
      `${clip.label} is ${media.isPicture ? "a picture" : "only sound"}, expected a video. Send video files.`,
    );
  // The header of a variable rate may claim 1000: the average is what is shown.
  const fps = video.averageFps || video.fps || usualFps;
  return { clip, media, video, fps, loudness: await measureClip(context, clip, media, index) };
};

/** undefined without sound. */
const measureClip = async (
  context: StageContext,
  clip: Clip,
  media: MediaFacts,
  index: number,
): Promise<Loudness | undefined> => {
  if (media.audio === undefined) return undefined;
  const end = await context.process(numbered("loudness", index), {
    program: "ffmpeg",
    args: await ffmpegArguments({
      globals: ["-loglevel", "info"],
      inputs: [{ path: clip.input.path, options: safeInput(media.demuxer) }],
      outputs: [
        {
          path: "-",
          options: ["-map", `0:${media.audio.index}`, "-af", `aformat=channel_layouts=stereo,${measure}`, "-f", "null"],
        },
      ],
    }),
  });
  try {
    failOn(end, `the loudness pass over ${clip.label}`);
  } catch (error) {
    throw error instanceof StageFailure && error.failureClass === "input_corrupt" ? damaged(clip.label, error) : error;
  }
  return parseLoudness(end.stderr);
};

const reportOf = ({ clip, media, video, fps, loudness }: Analysed) => ({
  name: clip.input.name,
  original: clip.original,
  duration: video.durationSeconds ?? media.durationSeconds ?? 0,
  size: clip.input.sizeBytes,
  container: media.demuxer,
  video: {
    codec: video.codec,
    width: video.width,
    height: video.height,
    rotation: video.rotation,
    pixel_aspect: video.pixelAspect,
    pixel_format: video.pixelFormat,
    color_space: video.colorSpace,
    fps,
  },
  audio:
    media.audio === undefined
      ? null
      : { codec: media.audio.codec, sample_rate: media.audio.sampleRate, channels: media.audio.channels },
  // Silence has a peak of -Infinity, which JSON does not know.
  loudness:
    loudness === undefined
      ? null
      : { integrated_lufs: loudness.integratedLufs, true_peak_db: Math.max(-150, loudness.truePeakDb) },
});
