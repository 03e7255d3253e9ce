// One rendition of a caller's file: H.264 and AAC in MP4, never larger than the source, frames and shape as they were. Pure.
// A variable frame rate stays variable and a file without sound stays without: a rendition adds nothing.
import type { FfmpegPlan } from "../machine/ffmpeg.ts";
import { decoderOptions, type Encoder, videoOptions, type X264Preset } from "./encoder.ts";
import { type MediaFacts, safeInput, type VideoFacts } from "./probe.ts";

export type RenditionSettings = {
  readonly height: number;
  readonly videoKbps: number;
  readonly audioKbps: number;
  readonly preset: X264Preset;
};
export type RenditionSize = { readonly width: number; readonly height: number; readonly isReduced: boolean };

/** H.264 High has no level beyond this, and no player shows it. */
const maxWidth = 8192;

/** The wanted height, or the source's when that is smaller; width by its shape; both even, at least 2. An odd source loses a line. */
export const renditionSize = (video: VideoFacts, wantedHeight: number): RenditionSize => {
  const isReduced = video.height < wantedHeight;
  const height = Math.max(2, 2 * Math.floor(Math.min(wantedHeight, video.height) / 2));
  const width = nearestEven((video.width * video.pixelAspect * height) / video.height);
  return { width: Math.min(maxWidth, width), height, isReduced };
};

const nearestEven = (value: number): number => Math.max(2, 2 * Math.round(value / 2));

export const transcodePlan = (plan: {
  readonly source: { readonly path: string; readonly media: MediaFacts; readonly video: VideoFacts };
  readonly size: RenditionSize;
  readonly settings: RenditionSettings;
  readonly encoder: Encoder;
  readonly threads: number;
  readonly output: string;
}): FfmpegPlan => {
  const { source, size, settings } = plan;
  const { audio } = source.media;
  // Untagged colours keep their matrix: guessing one would shift the picture. RGB has none and gets BT.709 with its tag.
  const isRgb = /rgb|bgr|pal8/.test(source.video.pixelFormat);
  const colors = isRgb ? ":out_color_matrix=bt709:out_range=tv" : ":out_range=tv";
  const frameRate = source.video.averageFps || source.video.fps || 30;
  return {
    globals: ["-loglevel", "level+warning", "-filter_complex_threads", String(plan.threads)],
    inputs: [
      {
        path: source.path,
        options: [
          "-threads",
          String(plan.threads),
          ...decoderOptions(plan.encoder),
          ...safeInput(source.media.demuxer),
        ],
      },
    ],
    graph: [
      `[0:${source.video.index}]scale=${size.width}:${size.height}:flags=bicubic${colors},setsar=1,format=yuv420p[v]`,
    ],
    outputs: [
      {
        path: plan.output,
        options: [
          ...[
            "-map",
            "[v]",
            ...(audio ? ["-map", `0:${audio.index}`] : []),
            "-map_metadata",
            "-1",
            "-map_chapters",
            "-1",
          ],
          ...videoOptions(plan.encoder, {
            quality: { kind: "bitrate", kbps: settings.videoKbps },
            preset: settings.preset,
            gopFrames: Math.max(1, Math.round(Math.min(120, frameRate) * 2)),
            threads: plan.threads,
          }),
          ...(isRgb ? ["-colorspace", "bt709"] : []),
          ...(audio ? ["-c:a", "aac", "-b:a", `${settings.audioKbps}k`, "-ar", "48000", "-ac", "2"] : []),
          // Without it 5.1 fills a variable rate up to a constant one, and a header that claims 1000 fps makes 1000 frames.
          ...["-fps_mode", "vfr"],
          ...["-movflags", "+faststart", "-abort_on", "empty_output_stream", "-f", "mp4"],
        ],
      },
    ],
  };
};
