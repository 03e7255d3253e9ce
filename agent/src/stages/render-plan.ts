// The FFmpeg run that makes a narrated video: scenes scaled and cropped, crossfades, voice, captions, H.264 and AAC. Pure.
// The graph was run on FFmpeg 5.1, 7.1 and 9.0, and its odd pieces are there for one of them: `fps` before xfade for 7.1,
// explicit colour matrices for 5.1, integer timestamps for all. Texts never stand in it, only numbers and fixed file names.
import type { FfmpegInput, FfmpegPlan } from "../machine/ffmpeg.ts";
import { colorTags, decoderOptions, type Encoder, videoOptions, type X264Preset } from "./encoder.ts";
import { amplify, evenVoice, padTo } from "./loudness.ts";
import { type MediaFacts, safeInput, type VideoFacts } from "./probe.ts";
import type { Slot, Timeline } from "./timeline.ts";

export type Scene = {
  readonly path: string;
  /** Begins messages about it. */
  readonly label: string;
  readonly media: MediaFacts;
  readonly video: VideoFacts;
};
export type RenderSettings = { readonly width: number; readonly height: number; readonly preset: X264Preset };
export type RenderPlan = {
  readonly timeline: Timeline;
  readonly scenes: readonly Scene[];
  readonly settings: RenderSettings;
  readonly narration: { readonly path: string; readonly demuxer: string };
  readonly gainDb: number;
  /** Name in the work folder, or undefined for a video without burned-in captions. */
  readonly captions: "captions.ass" | undefined;
  readonly encoder: Encoder;
  readonly threads: number;
  readonly output: string;
};

/** A clip shorter than this is shown as a picture: looping one frame hundreds of times is slow, and without a duration endless. */
const shortestClipSeconds = 0.5;
/** A strip of 1x5000 would be scaled to millions of lines; nothing wider or taller than this survives the crop to 16:9 anyway. */
const maxAspect = 4;
/** Untagged video from this height up is BT.709 by custom, below it BT.601, which is what the scaler assumes. */
const bt709FromHeight = 720;
/** Many clips at once: one decoder thread each, or their frame buffers fill the memory. */
const manySlots = 8;

/** Pictures, single frames and clips of unknown or tiny length: one frame, slowly zoomed. */
export const isStill = (scene: Scene): boolean =>
  scene.media.isPicture || (scene.media.durationSeconds ?? 0) < shortestClipSeconds || scene.video.frames === 1;

export const renderPlan = (plan: RenderPlan): FfmpegPlan => {
  const { timeline } = plan;
  return {
    globals: ["-loglevel", "level+warning", "-filter_complex_threads", String(plan.threads)],
    inputs: [
      { path: plan.narration.path, options: safeInput(plan.narration.demuxer) },
      ...timeline.slots.map((slot) => sceneInput(sceneOf(plan, slot), slot, plan)),
    ],
    graph: [
      ...timeline.slots.map(
        (slot, i) => `[${i + 1}:${sceneOf(plan, slot).video.index}]${sceneChain(plan, slot)}[v${i}]`,
      ),
      ...crossfades(timeline),
      `[${timeline.slots.length === 1 ? "v0" : `x${timeline.slots.length - 1}`}]${finish(plan)}[vout]`,
      `[0:a]${evenVoice},${amplify(plan.gainDb)},${padTo(timeline.totalFrames / timeline.fps)},${stereo}[aout]`,
    ],
    outputs: [
      {
        path: plan.output,
        options: [
          ...["-map", "[vout]", "-map", "[aout]", "-map_metadata", "-1", "-map_chapters", "-1"],
          ...videoOptions(plan.encoder, {
            quality: { kind: "constant", crf: 20, maxKbps: 12_000 },
            preset: plan.settings.preset,
            gopFrames: timeline.fps * 2,
            threads: plan.threads,
          }),
          ...colorTags,
          ...["-c:a", "aac", "-b:a", "192k", "-ar", "48000", "-ac", "2"],
          ...["-movflags", "+faststart", "-abort_on", "empty_output_stream", "-f", "mp4"],
        ],
      },
    ],
  };
};

const stereo = "aformat=sample_fmts=fltp:sample_rates=48000:channel_layouts=stereo";

const sceneOf = (plan: RenderPlan, slot: Slot): Scene => {
  const scene = plan.scenes[slot.scene];
  if (scene === undefined) throw new RangeError(`the timeline names scene ${slot.scene} of ${plan.scenes.length}`);
  return scene;
};

const sceneInput = (scene: Scene, slot: Slot, plan: RenderPlan): FfmpegInput => {
  const safe = safeInput(scene.media.demuxer);
  if (isStill(scene)) return { path: scene.path, options: safe };
  const needed = slot.frames / plan.timeline.fps;
  const isShort = (scene.media.durationSeconds ?? 0) < needed + 0.1;
  const threads = plan.timeline.slots.length > manySlots ? 1 : plan.threads;
  return {
    path: scene.path,
    options: [
      ...(isShort ? ["-stream_loop", "-1"] : []),
      ...["-t", (needed + 1).toFixed(3), "-threads", String(threads)],
      ...decoderOptions(plan.encoder),
      ...safe,
    ],
  };
};

/** Exactly slot.frames frames of the wanted size, whatever the scene is. */
const sceneChain = (plan: RenderPlan, slot: Slot): string => {
  const { fps } = plan.timeline;
  const { width, height } = plan.settings;
  const scene = sceneOf(plan, slot);
  // Two frames more than needed, because fps drops the last one; then a clone of the last frame for whatever still lacks.
  const exact = `setpts=PTS-STARTPTS,fps=${fps},tpad=stop_mode=clone:stop_duration=${Math.ceil(slot.frames / fps) + 2},trim=end_frame=${slot.frames}`;
  const fill = [...squarePixels(scene.video), cover(scene.video, width, height)].join(",");
  if (!isStill(scene))
    return `setpts=PTS-STARTPTS,fps=${fps},trim=end_frame=${slot.frames + 2},setpts=PTS-STARTPTS,${fill},${exact}`;
  const zoom = `zoompan=z='1+0.12*on/${slot.frames}':x='(iw-iw/zoom)/2':y='(ih-ih/zoom)/2':d=${slot.frames + 2}:s=${width}x${height}:fps=${fps}`;
  return `trim=end_frame=1,${fill},${zoom},${exact}`;
};

const squarePixels = (video: VideoFacts): string[] => {
  const { pixelAspect } = video;
  const isSquare = Math.abs(pixelAspect - 1) < 0.01;
  const [width, height] = [Math.max(1, Math.round(video.width * pixelAspect)), video.height];
  const square = isSquare ? [] : [`scale=${width}:${height}`];
  const [cropWidth, cropHeight] = [Math.min(width, height * maxAspect), Math.min(height, width * maxAspect)];
  const isStrip = cropWidth < width || cropHeight < height;
  return isStrip ? [...square, `crop=${cropWidth}:${cropHeight}`] : square;
};

/** An option of the scaler: the matrix of a source that does not say it, where custom differs from the scaler's assumption. */
export const assumedMatrix = (video: VideoFacts): string => {
  const isUntagged = video.colorSpace === "" || video.colorSpace === "unknown";
  return isUntagged && video.pixelFormat.startsWith("yuv") && video.height >= bt709FromHeight
    ? ":in_color_matrix=bt709"
    : "";
};

const cover = (video: VideoFacts, width: number, height: number): string =>
  `scale=${width}:${height}:force_original_aspect_ratio=increase:flags=lanczos${assumedMatrix(video)}:out_color_matrix=bt709:out_range=tv,crop=${width}:${height},setsar=1,format=yuv420p`;

const crossfades = ({ slots, fps, fadeFrames }: Timeline): string[] =>
  slots.slice(1).map((slot, i) => {
    const before = i === 0 ? "v0" : `x${i}`;
    const [duration, offset] = [(fadeFrames / fps).toFixed(6), (slot.startFrame / fps).toFixed(6)];
    return `[${before}][v${i + 1}]xfade=transition=fade:duration=${duration}:offset=${offset}[x${i + 1}]`;
  });

const finish = (plan: RenderPlan): string => {
  const { fps, totalFrames, fadeFrames } = plan.timeline;
  const captions = plan.captions === undefined ? "" : `ass=filename=${plan.captions}:shaping=complex,`;
  const fadeFrom = ((totalFrames - fadeFrames) / fps).toFixed(6);
  const fade = `fade=t=out:st=${fadeFrom}:d=${(fadeFrames / fps).toFixed(6)}`;
  return `trim=end_frame=${totalFrames},settb=1/${fps},setpts=N,${captions}${fade},setpts=N,setparams=color_primaries=bt709:color_trc=bt709:colorspace=bt709:range=tv,format=yuv420p`;
};
