// What a media file really is, asked of ffprobe as a durable step and reduced to what plans need.
// Formats are an allow-list: playlists, concat lists and everything that names other files is never opened, whatever its name says.
// Leaves to others: whether a file may be used as a scene (media), what is made of it (render, transcode).
import { z } from "zod";
import { type StageContext, StageFailure } from "../work/contract.ts";

export type VideoFacts = {
  readonly index: number;
  readonly codec: string;
  readonly profile: string;
  /** As shown: after rotation, before the pixel's own shape. */
  readonly width: number;
  readonly height: number;
  readonly rotation: number;
  /** Shape of a pixel; 1 is square. */
  readonly pixelAspect: number;
  readonly fps: number;
  readonly averageFps: number;
  readonly pixelFormat: string;
  readonly colorSpace: string;
  /** What the header says; undefined in containers that do not say. */
  readonly frames: number | undefined;
  /** Counted, when `countPackets` asked for it: one packet is one frame. */
  readonly packets: number | undefined;
  readonly startSeconds: number;
  readonly durationSeconds: number | undefined;
};
export type AudioFacts = {
  readonly index: number;
  readonly codec: string;
  readonly sampleRate: number;
  readonly channels: number;
  readonly startSeconds: number;
  readonly durationSeconds: number | undefined;
};
export type MediaFacts = {
  /** Name for -f, so that the run opens the file as what was probed and as nothing else. */
  readonly demuxer: string;
  readonly isPicture: boolean;
  /** Undefined for pictures and where no header says it. */
  readonly durationSeconds: number | undefined;
  readonly sizeBytes: number;
  readonly streams: number;
  readonly video: VideoFacts | undefined;
  readonly audio: AudioFacts | undefined;
};

/** First name of ffprobe's format_name -> name for -f. Nothing here can name another file. */
const containers: { readonly [format: string]: string } = {
  mov: "mov",
  matroska: "matroska",
  mpegts: "mpegts",
  avi: "avi",
  mpeg: "mpeg",
  gif: "gif",
  flac: "flac",
  wav: "wav",
  mp3: "mp3",
  ogg: "ogg",
};
/** Pictures are told by codec, because the format's name depends on the name of the file. */
const pictures: { readonly [codec: string]: string } = { mjpeg: "jpeg_pipe", png: "png_pipe", webp: "webp_pipe" };
const formatWhitelist = [...Object.keys(containers), ...Object.values(pictures), "image2"].join(",");

/** Options before an -i: local files only, and the demuxer that was probed. */
export const safeInput = (demuxer: string): string[] => ["-protocol_whitelist", "file", "-f", demuxer];

/** `label` is what the caller calls the file; it stands in messages. Throws input_corrupt or input_refused. */
export const probe = async (
  context: StageContext,
  step: string,
  path: string,
  label: string,
  options: { readonly countPackets?: boolean } = {},
): Promise<MediaFacts> => {
  const end = await context.process(step, {
    program: "ffprobe",
    args: [
      ...["-v", "error", "-protocol_whitelist", "file", "-format_whitelist", formatWhitelist],
      // Reads the whole file without decoding it: 0.1 s for a minute of 1080p.
      ...(options.countPackets ? ["-count_packets"] : []),
      ...["-of", "json", "-show_format", "-show_streams", path],
    ],
  });
  const more = { evidence: end.stderr.slice(-4_096), exit: String(end.exitCode ?? end.signal) };
  if (end.exitCode === 127)
    throw new StageFailure("missing_program", "ffprobe was not found. Install ffmpeg or set FFPROBE_PATH.", more);
  if (/Format not on whitelist/.test(end.stderr))
    throw new StageFailure(
      "input_refused",
      `${label} is of a format that is not accepted. Give MP4, MOV, MKV, WebM, AVI, MPEG, JPEG, PNG, WebP or GIF.`,
      more,
    );
  if (end.exitCode !== 0)
    throw new StageFailure("input_corrupt", `${label} cannot be read. Export or upload the file again.`, more);
  return readFacts(end.stdout, label);
};

/** Pure half of `probe`. */
export const readFacts = (json: string, label: string): MediaFacts => {
  const parsed = answerSchema.safeParse(parseJson(json));
  if (!parsed.success)
    throw new StageFailure("input_corrupt", `${label} cannot be read: ffprobe found no format in it. Upload it again.`);
  const { format, streams } = parsed.data;
  const name = format.format_name.split(",")[0] ?? "";
  const videos = streams.filter((stream) => stream.codec_type === "video" && stream.disposition?.attached_pic !== 1);
  const video = videos.find((stream) => (stream.width ?? 0) > 0 && (stream.height ?? 0) > 0);
  const isPicture = name === "image2" || name.endsWith("_pipe");
  const demuxer = isPicture ? pictures[video?.codec_name ?? ""] : containers[name];
  if (demuxer === undefined)
    throw new StageFailure(
      "input_refused",
      `${label} is of the format ${name}, which is not accepted. Give MP4 or JPEG.`,
    );
  const audio = streams.find((stream) => stream.codec_type === "audio");
  return {
    demuxer,
    isPicture,
    durationSeconds: isPicture ? undefined : seconds(format.duration),
    sizeBytes: Number(format.size ?? 0),
    streams: streams.length,
    video: video && videoFacts(video),
    audio: audio && {
      index: audio.index,
      codec: audio.codec_name ?? "",
      sampleRate: Number(audio.sample_rate ?? 0),
      channels: audio.channels ?? 0,
      startSeconds: seconds(audio.start_time) ?? 0,
      durationSeconds: seconds(audio.duration),
    },
  };
};

const streamSchema = z.object({
  index: z.number().int().min(0),
  codec_type: z.string().optional(),
  codec_name: z.string().optional(),
  profile: z.union([z.string(), z.number()]).optional(),
  width: z.number().optional(),
  height: z.number().optional(),
  sample_aspect_ratio: z.string().optional(),
  pix_fmt: z.string().optional(),
  color_space: z.string().optional(),
  r_frame_rate: z.string().optional(),
  avg_frame_rate: z.string().optional(),
  start_time: z.string().optional(),
  duration: z.string().optional(),
  nb_frames: z.string().optional(),
  nb_read_packets: z.string().optional(),
  sample_rate: z.string().optional(),
  channels: z.number().optional(),
  disposition: z.object({ attached_pic: z.number().optional() }).optional(),
  side_data_list: z.array(z.object({ rotation: z.number().optional() })).optional(),
});
const answerSchema = z.object({
  format: z.object({ format_name: z.string(), duration: z.string().optional(), size: z.string().optional() }),
  streams: z.array(streamSchema).default([]),
});

const videoFacts = (stream: z.infer<typeof streamSchema>): VideoFacts => {
  const rotation = stream.side_data_list?.find((data) => data.rotation !== undefined)?.rotation ?? 0;
  const isTurned = Math.abs(Math.round(rotation / 90)) % 2 === 1;
  const [width, height] = [stream.width ?? 0, stream.height ?? 0];
  return {
    index: stream.index,
    codec: stream.codec_name ?? "",
    profile: String(stream.profile ?? ""),
    width: isTurned ? height : width,
    height: isTurned ? width : height,
    rotation,
    pixelAspect: ratio(stream.sample_aspect_ratio?.replace(":", "/")) || 1,
    fps: ratio(stream.r_frame_rate),
    averageFps: ratio(stream.avg_frame_rate),
    pixelFormat: stream.pix_fmt ?? "",
    colorSpace: stream.color_space ?? "",
    frames: count(stream.nb_frames),
    packets: count(stream.nb_read_packets),
    startSeconds: seconds(stream.start_time) ?? 0,
    durationSeconds: seconds(stream.duration),
  };
};

const seconds = (text: string | undefined): number | undefined => {
  const value = text === undefined ? Number.NaN : Number(text);
  return Number.isFinite(value) ? value : undefined;
};

const count = (text: string | undefined): number | undefined =>
  text !== undefined && /^\d+$/.test(text) ? Number(text) : undefined;

/** "30000/1001" -> 29.97; 0 when unknown. */
const ratio = (text: string | undefined): number => {
  const [top, bottom] = (text ?? "").split("/").map(Number);
  const value = (top ?? Number.NaN) / (bottom ?? 1);
  return Number.isFinite(value) && value > 0 ? value : 0;
};

const parseJson = (text: string): unknown => {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
};
