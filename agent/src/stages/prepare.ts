// Stage kind `prepare`: every clip of a merge in the common target, prepared-NNN.mov, one after another: one picture run a clip
// that is not repeated after a restart, then its sound. A clip is what FFmpeg could really decode, counted in frames.
// The CPU does it: these files are decoded once more and thrown away, and the GPU is better kept for the finished video.
import { rm } from "node:fs/promises";
import path from "node:path";
import { z } from "zod";
import { failOn } from "../domain/exit.ts";
import { ffmpegArguments } from "../machine/ffmpeg.ts";
import { type OutputFile, type StageContext, StageFailure, type StageKind } from "../work/contract.ts";
import { readFields } from "./fields.ts";
import { type Clip, numbered, readClips, sampleRate, type Target, targetSchema } from "./merge-clips.ts";
import { type ClipSource, picturePlan, soundPlan } from "./prepare-plan.ts";
import { probe } from "./probe.ts";
import { damaged } from "./transcode.ts";

const analysisResult = z.object({ target: targetSchema });

/** FFmpeg ends well on a Matroska file that was cut: without this the clip would just be shorter. */
const cutMatroska = /\[matroska[^\]]*\] (\[\w+\] )?File ended prematurely/;

type Prepared = { readonly name: string; readonly original: string; readonly frames: number; readonly audio: boolean };

export const prepareStage: StageKind = {
  kind: "prepare",
  run: async (context) => {
    const { target } = readFields(analysisResult, context.results.analysis, "results.analysis");
    const clips = readClips(context);
    const prepared: Prepared[] = [];
    const outputs: OutputFile[] = [];
    for (const [index, clip] of clips.entries()) {
      const share = { from: index / clips.length, to: (index + 1) / clips.length };
      const one = await prepareClip(context, clip, index, target, share).catch((error: unknown) => {
        const isClip = error instanceof StageFailure && error.failureClass === "input_corrupt";
        throw isClip ? damaged(clip.label, error) : error;
      });
      prepared.push(one);
      outputs.push({ name: one.name, path: one.name, mediaType: "video/quicktime" });
      context.progress({ fraction: share.to, step: `prepared ${index + 1} of ${clips.length} clips` });
    }
    return { result: { target, clips: prepared }, outputs };
  },
};

const prepareClip = async (
  context: StageContext,
  clip: Clip,
  index: number,
  target: Target,
  share: { readonly from: number; readonly to: number },
): Promise<Prepared> => {
  const source = await readSource(context, clip, index);
  const [picture, name] = [`${numbered("picture", index)}.mov`, `${numbered("prepared", index)}.mov`];
  const seconds = source.video.durationSeconds ?? source.media.durationSeconds ?? 0;
  const shown = await context.process(numbered("picture", index), {
    program: "ffmpeg",
    args: await ffmpegArguments(picturePlan({ source, target, threads: context.threads, output: picture })),
    progress: { label: `preparing clip ${index + 1}`, ...(seconds > 0 ? { totalMs: seconds * 1000 } : {}), ...share },
  });
  failOn(shown, `the preparation of ${clip.label}`);
  if (cutMatroska.test(shown.stderr))
    throw new StageFailure("input_corrupt", `${clip.label} ended early.`, { evidence: shown.stderr.slice(-4_096) });
  const counted = await probe(context, numbered("count", index), picture, picture, { countPackets: true });
  const frames = counted.video?.packets ?? 0;
  if (frames === 0)
    throw new StageFailure(
      "input_refused",
      `${clip.label} is shorter than one frame at ${target.fps} fps. Leave it out or send a longer one.`,
    );
  const sounded = await context.process(numbered("sound", index), {
    program: "ffmpeg",
    args: await ffmpegArguments(soundPlan({ source, target, picture, frames, output: name })),
  });
  failOn(sounded, `the preparation of the sound of ${clip.label}`);
  await verify(context, numbered("verify", index), name, frames, target);
  // A second copy of every picture would double what the stage needs on the scratch disk.
  await rm(path.join(context.dir, picture), { force: true });
  return { name, original: clip.original, frames, audio: source.media.audio !== undefined };
};

const readSource = async (context: StageContext, clip: Clip, index: number): Promise<ClipSource> => {
  const media = await probe(context, numbered("probe", index), clip.input.path, clip.label);
  if (media.video === undefined || media.isPicture)
    throw new StageFailure("input_refused", `${clip.label} is no video. Send video files.`);
  return { path: clip.input.path, media, video: media.video };
};

const verify = async (
  context: StageContext,
  step: string,
  name: string,
  frames: number,
  target: Target,
): Promise<void> => {
  const { video, audio } = await probe(context, step, name, name, { countPackets: true });
  const samples = Math.round((audio?.durationSeconds ?? 0) * sampleRate);
  const found = `${video?.packets ?? 0} frames of ${video?.width ?? 0}x${video?.height ?? 0} at ${video?.fps ?? 0} fps with ${samples} samples`;
  const planned = `${frames} frames of ${target.width}x${target.height} at ${target.fps} fps with ${(frames * sampleRate) / target.fps} samples`;
  // A single frame has no rate that a reader could measure.
  if (frames > 1 && found !== planned)
    throw new StageFailure("output_invalid", `${name} has ${found}; planned were ${planned}.`);
};
