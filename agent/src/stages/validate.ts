// Stage kind `validate`: does the finished video deserve to leave the house? One probe, one decode pass, the boxes of the file.
// Every check is a figure with a bound; one that fails ends the stage as quality_failed. What the render planned (still scenes,
// the fade at the end, pauses between sentences) is no fault. It changes nothing: the video goes on as it came.
import { readFile, stat } from "node:fs/promises";
import path from "node:path";
import { z } from "zod";
import { failOn } from "../domain/exit.ts";
import { ffmpegArguments } from "../machine/ffmpeg.ts";
import { type StageContext, StageFailure, type StageKind } from "../work/contract.ts";
import { atLeast, atMost, type Check, holds, requireAll, same, within } from "./checks.ts";
import { type DecodeReport, type Interval, longestUnplanned, parseDecodeReport } from "./decode-report.ts";
import { inputOf, readFields } from "./fields.ts";
import { measure, targetLufs } from "./loudness.ts";
import { isFastStart } from "./mp4-boxes.ts";
import { type MediaFacts, probe, safeInput } from "./probe.ts";

const validateParams = z.object({
  width: z.number().int().positive().default(1920),
  height: z.number().int().positive().default(1080),
  fps: z.number().positive().default(30),
  /** Seconds. The seed asked for 30; a channel sets what it wants. */
  min_duration: z.number().min(0).default(1),
  /** The callers' own clips may begin in black or stand still; a fault of the render lasts longer than these seconds. */
  max_black: z.number().min(0).default(2),
  max_freeze: z.number().min(0).default(10),
  max_silence: z.number().min(0).default(2),
});
type Params = z.infer<typeof validateParams>;

const speechResult = z.object({ duration: z.number().positive() });
const interval = z.tuple([z.number(), z.number()]);
const renderResult = z.object({
  frames: z.number().int().positive(),
  tail: z.number().min(0).default(0),
  stills: z.array(interval).default([]),
});
const timingsSchema = z.array(z.object({ start_ms: z.number(), end_ms: z.number() }));

/** One frame and a millisecond: FFmpeg 7.1 leaves out the length of the last frame. */
const durationSlackSeconds = 0.001;
/** The length of the video is the speech, the tail and the rounding up to a frame; speech lengths are rounded by providers. */
const speechSlackSeconds = 0.1;
/** An AAC frame is 21 ms; more than two of them is heard. */
const maxOffsetSeconds = 0.05;
const maxEndOffsetSeconds = 0.1;
const loudnessTolerance = 1;
/** Under three seconds a few 0.4 s blocks decide the figure, and the delay of AAC shifts them. */
const shortSpeech = { seconds: 3, tolerance: 3 };
const maxTruePeakDb = -1;
/** The fade at the end is black for its last frames. */
const endFadeSeconds = 0.6;
const bitrateKbps = { least: 32, most: 40_000 };

export const validateStage: StageKind = {
  kind: "validate",
  run: async (context) => {
    const params = readFields(validateParams, context.params, "params");
    const speech = readFields(speechResult, context.results.audio_synthesis, "results.audio_synthesis");
    const render = readFields(renderResult, context.results.video_rendering, "results.video_rendering");
    const { path: file } = inputOf(context, "video_rendering", "video.mp4");
    const sizeBytes = (await stat(path.join(context.dir, file))).size;

    context.progress({ fraction: 0.02, step: "reading the streams" });
    const facts = await readable(probe(context, "probe", file, "video.mp4", { countPackets: true }));
    const seconds = facts.durationSeconds ?? 0;
    const report = await readable(decode(context, file, facts, seconds));
    const fast = await isFastStart(path.join(context.dir, file));
    const result = requireAll(
      [
        atLeast("file_size", sizeBytes, 1, "bytes", 0),
        holds("faststart", fast, fast ? "moov before mdat" : "moov behind mdat or missing", "moov before mdat"),
        ...streamChecks(facts, params, render.frames, sizeBytes),
        ...lengthChecks(facts, params, speech.duration + render.tail, render.frames),
        ...contentChecks(report, params, seconds, render.stills, await longestPause(context)),
      ],
      "video.mp4",
    );
    context.progress({ fraction: 1, step: "all checks passed" });
    return { result, outputs: [] };
  },
};

/** The bytes are the ones that the render sent (their checksum says so); if they do not decode, the video is at fault. */
const readable = async <T>(reading: Promise<T>): Promise<T> => {
  try {
    return await reading;
  } catch (error) {
    if (!(error instanceof StageFailure) || !["input_corrupt", "input_refused"].includes(error.failureClass))
      throw error;
    throw new StageFailure(
      "quality_failed",
      `video.mp4 did not pass: decodes is false, expected true. ${error.message}`,
      {
        evidence: error.evidence,
        exit: error.exit,
      },
    );
  }
};

const streamChecks = (facts: MediaFacts, params: Params, frames: number, sizeBytes: number): Check[] => {
  const { video, audio } = facts;
  const kbps = (sizeBytes * 8) / 1000 / Math.max(0.001, facts.durationSeconds ?? 0);
  return [
    same("streams", facts.streams, 2),
    same("video_codec", video?.codec ?? "", "h264"),
    same("video_profile", video?.profile ?? "", "High"),
    same("resolution", `${video?.width ?? 0}x${video?.height ?? 0}`, `${params.width}x${params.height}`),
    within("fps", video?.fps ?? 0, params.fps, 0.01, "fps"),
    same("pixel_format", video?.pixelFormat ?? "", "yuv420p"),
    same("color_space", video?.colorSpace ?? "", "bt709"),
    within("pixel_aspect", video?.pixelAspect ?? 0, 1, 0.001, "", 3),
    same("frames", video?.packets ?? 0, frames),
    same("audio_codec", audio?.codec ?? "", "aac"),
    same("sample_rate", audio?.sampleRate ?? 0, 48_000),
    same("channels", audio?.channels ?? 0, 2),
    holds(
      "bitrate",
      kbps >= bitrateKbps.least && kbps <= bitrateKbps.most,
      `${kbps.toFixed(0)} kbit/s`,
      `${bitrateKbps.least} to ${bitrateKbps.most} kbit/s`,
    ),
  ];
};

const lengthChecks = (facts: MediaFacts, params: Params, speechSeconds: number, frames: number): Check[] => {
  const seconds = facts.durationSeconds ?? 0;
  const frame = 1 / params.fps;
  const { video, audio } = facts;
  const end = (stream: { startSeconds: number; durationSeconds: number | undefined } | undefined): number =>
    (stream?.startSeconds ?? 0) + (stream?.durationSeconds ?? seconds);
  return [
    atLeast("duration", seconds, params.min_duration, "s"),
    within("duration_plan", seconds, frames * frame, frame + durationSlackSeconds, "s", 3),
    within("duration_speech", seconds, speechSeconds, frame + speechSlackSeconds, "s", 3),
    atMost(
      "av_start_offset",
      Math.abs((video?.startSeconds ?? 0) - (audio?.startSeconds ?? 0)),
      maxOffsetSeconds,
      "s",
      3,
    ),
    atMost("av_end_offset", Math.abs(end(video) - end(audio)), maxEndOffsetSeconds, "s", 3),
  ];
};

const contentChecks = (
  report: DecodeReport,
  params: Params,
  seconds: number,
  stills: readonly Interval[],
  longestPauseSeconds: number,
): Check[] => {
  const black = longestUnplanned(report.black, [[seconds - endFadeSeconds, seconds + 1]]);
  const frozen = longestUnplanned(report.frozen, stills);
  const silent = longestUnplanned(report.silent, []);
  const tolerance = seconds < shortSpeech.seconds ? shortSpeech.tolerance : loudnessTolerance;
  const maxSilence = Math.max(params.max_silence, longestPauseSeconds + 0.5);
  return [
    ...(report.loudness === undefined
      ? [holds("loudness", false, "not measurable", `${targetLufs} LUFS`)]
      : [
          within("loudness", report.loudness.integratedLufs, targetLufs, tolerance, "LUFS", 1),
          atMost("true_peak", report.loudness.truePeakDb, maxTruePeakDb, "dBTP", 1),
        ]),
    located(atMost("black", black.seconds, params.max_black, "s"), black.at),
    located(atMost("freeze", frozen.seconds, params.max_freeze, "s"), frozen.at),
    located(atMost("silence", silent.seconds, maxSilence, "s"), silent.at),
  ];
};

const located = (check: Check, at: number): Check =>
  check.ok ? check : { ...check, value: `${check.value} from ${at.toFixed(2)} s on` };

/** Decodes everything once; `-xerror` turns the first damaged frame into a failure. Level info: the reports are info lines. */
const decode = async (
  context: StageContext,
  file: string,
  facts: MediaFacts,
  seconds: number,
): Promise<DecodeReport> => {
  const pictures = facts.video
    ? [`[0:${facts.video.index}]blackdetect=d=0.5:pix_th=0.10,freezedetect=n=-60dB:d=1[v]`]
    : [];
  const sounds = facts.audio ? [`[0:${facts.audio.index}]silencedetect=n=-50dB:d=1,${measure}[a]`] : [];
  const maps = [...(facts.video ? ["-map", "[v]"] : []), ...(facts.audio ? ["-map", "[a]"] : [])];
  if (maps.length === 0) return parseDecodeReport("", seconds);
  const end = await context.process("decode", {
    program: "ffmpeg",
    args: await ffmpegArguments({
      globals: ["-loglevel", "info", "-xerror"],
      inputs: [{ path: file, options: ["-threads", String(context.threads), ...safeInput(facts.demuxer)] }],
      graph: [...pictures, ...sounds],
      outputs: [{ path: "-", options: [...maps, "-f", "null"] }],
    }),
    progress: { label: "watching the whole video", totalMs: seconds * 1000, from: 0.05, to: 0.98 },
  });
  failOn(end, "the decode of video.mp4");
  return parseDecodeReport(end.stderr, seconds);
};

/** Seconds between sentences, as the speech was made; 0 when the timings are not among the inputs. */
const longestPause = async (context: StageContext): Promise<number> => {
  const file = context.inputs.find((input) => input.stage === "audio_synthesis" && input.name === "timings.json");
  if (file === undefined) return 0;
  const timings = readFields(
    timingsSchema,
    JSON.parse(await readFile(path.join(context.dir, file.path), "utf8")),
    "timings.json",
  );
  return timings.reduce((longest, timing, i) => {
    const next = timings[i + 1];
    return next === undefined ? longest : Math.max(longest, (next.start_ms - timing.end_ms) / 1000);
  }, 0);
};
