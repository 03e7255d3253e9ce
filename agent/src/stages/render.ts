// Stage kind `render`: narration, timings and scenes in, video.mp4 and captions.srt out, in four kinds of steps:
// probe every input, measure the voice, render, count the frames. The plan is pure (timeline, render-plan, loudness).
// The output counts only when it has exactly the planned frames: FFmpeg exits with 0 on a cut input or a full disk.
import { readFile, writeFile } from "node:fs/promises";
import path from "node:path";
import { z } from "zod";
import { captionsFrom, toAss, toSrt } from "../domain/captions.ts";
import { failOn } from "../domain/exit.ts";
import { ffmpegArguments } from "../machine/ffmpeg.ts";
import { type InputFile, type StageContext, StageFailure, type StageKind } from "../work/contract.ts";
import { encode, x264Presets } from "./encoder.ts";
import { inputOf, readFields, readRequest } from "./fields.ts";
import {
  amplify,
  corrected,
  evenVoice,
  gainFor,
  type Loudness,
  maxTrials,
  measure,
  needsTrial,
  padTo,
  parseLoudness,
} from "./loudness.ts";
import { type MediaFacts, probe, safeInput } from "./probe.ts";
import { isStill, renderPlan, type Scene } from "./render-plan.ts";
import { planTimeline, type Timeline, tailSeconds } from "./timeline.ts";

const even = (least: number, most: number) => z.number().int().min(least).max(most).multipleOf(2);
const renderParams = z.object({
  width: even(64, 3840).default(1920),
  height: even(64, 2160).default(1080),
  fps: z.number().int().min(1).max(60).default(30),
  preset: z.enum(x264Presets).default("veryfast"),
});
const timingsSchema = z.array(
  z
    .object({ text: z.string(), start_ms: z.number().min(0), end_ms: z.number().min(0) })
    .refine((t) => t.end_ms >= t.start_ms),
);
/** What media_collection knows of each scene; `original` is the caller's own name of an upload, for messages. */
const mediaResult = z.object({
  items: z.array(z.object({ name: z.string(), original: z.string().optional() })).default([]),
});
const output = "video.mp4";
/** A longer narration than this has no finite plan; 100 KB of script are about 100 minutes. */
const maxSpeechSeconds = 6 * 3600;

export const renderStage: StageKind = {
  kind: "render",
  run: async (context) => {
    const params = readFields(renderParams, context.params, "params");
    const request = readRequest(context);
    const { narration, facts, seconds } = await readNarration(context);
    const scenes = await readScenes(context);
    await writeCaptions(context);

    const timeline = planTimeline(seconds, scenes.length, params.fps);
    const totalMs = (timeline.totalFrames / timeline.fps) * 1000;
    context.progress({ fraction: 0.03, step: "measuring the loudness of the voice" });
    const voice = { path: narration.path, demuxer: facts.demuxer, seconds: totalMs / 1000 };
    const { measured, gainDb } = await findGain(context, voice);
    const encoded = await encode(
      context,
      "render",
      "the render",
      { label: "rendering", totalMs, from: 0.06, to: 0.97 },
      (encoder) =>
        renderPlan({
          timeline,
          scenes,
          settings: params,
          narration: voice,
          gainDb,
          captions: request.captions ? "captions.ass" : undefined,
          encoder,
          threads: context.threads,
          output,
        }),
    ).catch((error: unknown) => {
      throw namingTheScene(error, timeline, scenes);
    });
    context.progress({ fraction: 0.97, step: "checking the rendered file" });
    await verify(context, timeline, params);
    context.progress({ fraction: 1, step: "rendered" });
    return {
      result: {
        video_file: output,
        duration: timeline.totalFrames / timeline.fps,
        resolution: `${params.width}x${params.height}`,
        resource_used: encoded.encoder === "h264_nvenc" ? "gpu" : "cpu",
        encoder: encoded.encoder,
        ...(encoded.fallback === "" ? {} : { gpu_fallback: encoded.fallback.slice(0, 500) }),
        frames: timeline.totalFrames,
        fps: timeline.fps,
        // Fewer than were given when the speech is too short to show them all, more when they come round again.
        scenes_shown: timeline.slots.length,
        loudness: { measured_lufs: measured.integratedLufs, gain_db: Math.round(gainDb * 100) / 100 },
        tail: tailSeconds,
        // Where a standing picture is the plan and no fault, for the validation.
        stills: timeline.slots
          .filter((slot) => scenes.some((scene, i) => i === slot.scene && isStill(scene)))
          .map((slot) => [slot.startFrame / timeline.fps, (slot.startFrame + slot.frames) / timeline.fps]),
      },
      outputs: [
        { name: output, path: output, mediaType: "video/mp4" },
        { name: "captions.srt", path: "captions.srt", mediaType: "application/x-subrip" },
      ],
    };
  },
};

/** FFmpeg says which input was damaged, by path (5.1) or by number (7 and later); the caller knows neither. */
const namingTheScene = (error: unknown, timeline: Timeline, scenes: readonly Scene[]): unknown => {
  if (!(error instanceof StageFailure) || error.failureClass !== "input_corrupt") return error;
  const number = /\bin#(\d+)\//.exec(error.evidence)?.[1];
  const slot = number === undefined ? undefined : timeline.slots[Number(number) - 1];
  const scene =
    scenes.find(({ path: file }) => error.evidence.includes(`${file}: `)) ??
    (slot === undefined ? undefined : scenes[slot.scene]);
  if (scene === undefined) return error;
  const message = `${scene.label} is damaged or cut off. Export it again, check that it plays to its end, and upload it again.`;
  return new StageFailure("input_corrupt", message, { evidence: error.evidence, exit: error.exit });
};

const readNarration = async (
  context: StageContext,
): Promise<{ narration: InputFile; facts: MediaFacts; seconds: number }> => {
  const narration = inputOf(context, "audio_synthesis", "narration.flac");
  const facts = await probe(context, "probe-narration", narration.path, "narration.flac");
  const seconds = facts.durationSeconds ?? 0;
  if (facts.audio === undefined || seconds <= 0 || seconds > maxSpeechSeconds)
    throw new StageFailure(
      "input_corrupt",
      `narration.flac has ${facts.audio === undefined ? "no sound" : `a length of ${seconds} s`}, expected speech of up to ${maxSpeechSeconds} s. Run audio_synthesis again.`,
    );
  return { narration, facts, seconds };
};

const readScenes = async (context: StageContext): Promise<Scene[]> => {
  const files = context.inputs
    .filter((input) => input.stage === "media_collection" && input.name.startsWith("scene-"))
    .sort((a, b) => (a.name < b.name ? -1 : 1));
  if (files.length === 0)
    throw new StageFailure("input_missing", "media_collection gave no scene. Upload a clip or a picture with the job.");
  const { items } = readFields(mediaResult, context.results.media_collection, "results.media_collection");
  const scenes: Scene[] = [];
  for (const [i, file] of files.entries()) {
    const original = items.find((item) => item.name === file.name)?.original;
    const label = original === undefined ? file.name : `The uploaded file ${JSON.stringify(original)}`;
    const media = await probe(context, `probe-${String(i).padStart(3, "0")}`, file.path, label);
    if (media.video === undefined)
      throw new StageFailure("input_refused", `${label} has no picture. Upload a video or a picture in its place.`);
    scenes.push({ path: file.path, label, media, video: media.video });
    context.progress({ fraction: (0.02 * (i + 1)) / files.length, step: `reading scene ${i + 1} of ${files.length}` });
  }
  return scenes;
};

/** Under fixed names in the work folder: a path inside a filter would need escaping. */
const writeCaptions = async (context: StageContext): Promise<void> => {
  const file = inputOf(context, "audio_synthesis", "timings.json");
  const timings = readFields(
    timingsSchema,
    parseJson(await readFile(path.join(context.dir, file.path), "utf8")),
    "timings.json",
  );
  const captions = captionsFrom(timings);
  await writeFile(path.join(context.dir, "captions.ass"), toAss(captions));
  await writeFile(path.join(context.dir, "captions.srt"), toSrt(captions));
};

const parseJson = (text: string): unknown => {
  try {
    return JSON.parse(text);
  } catch {
    throw new StageFailure("input_corrupt", "timings.json is no JSON. Run audio_synthesis again.");
  }
};

type Voice = { readonly path: string; readonly demuxer: string; readonly seconds: number };

/** Measures the evened voice, computes the gain, and tries it where the limiter would take a part of it away. */
const findGain = async (context: StageContext, voice: Voice): Promise<{ measured: Loudness; gainDb: number }> => {
  const measured = await measureVoice(context, "loudness", voice, []);
  let gainDb = gainFor(measured);
  for (let trial = 1; needsTrial(gainDb) && trial <= maxTrials; trial += 1) {
    const next = corrected(gainDb, await measureVoice(context, `loudness-${trial}`, voice, [amplify(gainDb)]));
    if (next === gainDb) break;
    gainDb = next;
  }
  return { measured, gainDb };
};

const measureVoice = async (
  context: StageContext,
  step: string,
  voice: Voice,
  more: readonly string[],
): Promise<Loudness> => {
  const filters = [evenVoice, ...more, padTo(voice.seconds), measure].join(",");
  const end = await context.process(step, {
    program: "ffmpeg",
    args: await ffmpegArguments({
      globals: ["-loglevel", "info"],
      inputs: [{ path: voice.path, options: safeInput(voice.demuxer) }],
      outputs: [{ path: "-", options: ["-map", "0:a:0", "-af", filters, "-f", "null"] }],
    }),
    progress: { label: "measuring the loudness of the voice", totalMs: voice.seconds * 1000, from: 0.03, to: 0.06 },
  });
  failOn(end, "the loudness pass");
  const measured = parseLoudness(end.stderr);
  if (measured === undefined)
    throw new StageFailure("unknown", "the loudness pass printed no summary. Check the FFmpeg build of this host.", {
      evidence: end.stderr.slice(-4_096),
    });
  return measured;
};

const verify = async (
  context: StageContext,
  timeline: Timeline,
  size: { readonly width: number; readonly height: number },
): Promise<void> => {
  const { video, audio } = await probe(context, "verify", output, output, { countPackets: true });
  const found = `${video?.packets ?? 0} frames of ${video?.width ?? 0}x${video?.height ?? 0}, ${audio ? "with" : "without"} sound`;
  const expected = `${timeline.totalFrames} frames of ${size.width}x${size.height}, with sound`;
  if (found !== expected)
    throw new StageFailure("output_invalid", `the render made ${found}; planned were ${expected}.`);
};
