// The two FFmpeg runs that bring one clip to the common target. Pure.
// First the picture alone, at its natural length; then, when its frames are counted, sound of exactly as many samples is put
// beside a copy of it. Lengths in headers are not asked: a clip is as long as the pictures that really came out of it.
// H.264 of near-lossless quality without reordered frames, and PCM: such files join end to end without a new encoding.
import type { FfmpegPlan } from "../machine/ffmpeg.ts";
import { colorTags, videoOptions } from "./encoder.ts";
import { sampleRate, type Target } from "./merge-clips.ts";
import { type MediaFacts, safeInput, type VideoFacts } from "./probe.ts";
import { assumedMatrix } from "./render-plan.ts";

/** Visually the source, at about a tenth of a lossless file; the bound keeps noise from filling the scratch disk. */
const quality = { kind: "constant", crf: 16, maxKbps: 40_000 } as const;

export type ClipSource = { readonly path: string; readonly media: MediaFacts; readonly video: VideoFacts };

export const picturePlan = (plan: {
  readonly source: ClipSource;
  readonly target: Target;
  readonly threads: number;
  readonly output: string;
}): FfmpegPlan => {
  const { source, target, threads } = plan;
  const { fps } = target;
  return {
    globals: ["-loglevel", "level+warning", "-filter_complex_threads", String(threads)],
    inputs: [{ path: source.path, options: ["-threads", String(threads), ...safeInput(source.media.demuxer)] }],
    graph: [
      // From the start of the file and not of its picture: where the sound begins first, the first frame waits for its place.
      `[0:${source.video.index}]fps=fps=${fps}:start_time=0,${shape(source.video, target)},settb=1/${fps},setpts=N,setparams=color_primaries=bt709:color_trc=bt709:colorspace=bt709:range=tv[v]`,
    ],
    outputs: [
      {
        path: plan.output,
        options: [
          ...["-map", "[v]", "-map_metadata", "-1", "-map_chapters", "-1"],
          ...videoOptions("libx264", { quality, preset: "veryfast", gopFrames: fps * 2, threads }),
          // No reordering, so decoding and showing times are the same and files can follow each other (the last -bf counts).
          ...["-bf", "0"],
          ...colorTags,
          ...["-fps_mode", "vfr", "-abort_on", "empty_output_stream", "-f", "mov"],
        ],
      },
    ],
  };
};

/** `frames` is what the picture was counted to have. */
export const soundPlan = (plan: {
  readonly source: ClipSource;
  readonly target: Target;
  readonly picture: string;
  readonly frames: number;
  readonly output: string;
}): FfmpegPlan => {
  const { source, target } = plan;
  const { audio } = source.media;
  const samples = (plan.frames * sampleRate) / target.fps;
  const exact = `aformat=sample_fmts=s16:sample_rates=${sampleRate}:channel_layouts=stereo,atrim=end_sample=${samples}`;
  return {
    globals: ["-loglevel", "level+warning"],
    inputs: [
      { path: plan.picture, options: safeInput("mov") },
      ...(audio ? [{ path: source.path, options: ["-vn", "-dn", ...safeInput(source.media.demuxer)] }] : []),
    ],
    graph: [
      audio
        ? // `async` fills holes and a late start with silence, so that the sound stays with its picture.
          `[1:${audio.index}]aresample=${sampleRate}:async=1:first_pts=0,apad=whole_len=${samples},${exact}[a]`
        : `anullsrc=r=${sampleRate}:cl=stereo,${exact}[a]`,
    ],
    outputs: [
      {
        path: plan.output,
        options: [
          ...["-map", "0:v:0", "-map", "[a]", "-map_metadata", "-1", "-map_chapters", "-1"],
          ...["-c:v", "copy", "-c:a", "pcm_s16le", "-abort_on", "empty_output_stream", "-f", "mov"],
        ],
      },
    ],
  };
};

/** Exactly the target's size with square pixels. Numbers only, so a strip of 3x2000 never becomes a picture of a million lines. */
export const shape = (video: VideoFacts, target: Target): string => {
  const { width, height } = target;
  const shown = { width: video.width * video.pixelAspect, height: video.height };
  const scale = (w: number, h: number) =>
    `scale=${w}:${h}:flags=lanczos${assumedMatrix(video)}:out_color_matrix=bt709:out_range=tv`;
  const end = "setsar=1,format=yuv420p";
  if (target.fit === "crop") {
    // The middle of the source in the target's shape, measured in the source's own pixels.
    const aspect = width / height;
    const isWider = shown.width / shown.height > aspect;
    const cropWidth = isWider ? (shown.height * aspect) / video.pixelAspect : video.width;
    const cropHeight = isWider ? video.height : shown.width / aspect;
    return `crop=${whole(cropWidth, video.width)}:${whole(cropHeight, video.height)},${scale(width, height)},${end}`;
  }
  const ratio = Math.min(width / shown.width, height / shown.height);
  const inner = { width: evenUpTo(shown.width * ratio, width), height: evenUpTo(shown.height * ratio, height) };
  return `${scale(inner.width, inner.height)},${end},pad=${width}:${height}:(ow-iw)/2:(oh-ih)/2:color=black`;
};

const whole = (value: number, most: number): number => Math.max(1, Math.min(most, Math.round(value)));
const evenUpTo = (value: number, most: number): number => Math.max(2, Math.min(most, 2 * Math.round(value / 2)));
