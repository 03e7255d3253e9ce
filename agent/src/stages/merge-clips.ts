// What the stages of the pipeline media-merge share: its request, the clips that `upload` verified, the files that only this job
// needed on a host. Names on disk are ours; the caller's name of a clip stands in messages and in segments.json, never in a path.
import { sha256Pattern } from "@renderplane/proto/kernel/limits.ts";
import { z } from "zod";
import { type InputFile, type StageContext, StageFailure } from "../work/contract.ts";
import { inputOf, readFields } from "./fields.ts";

/** One clip is nothing to merge; more than fifty are a film, and its time limits are other ones. Refused as input_invalid. */
export const clipCount = { min: 2, max: 50 } as const;
/** Rates that divide 48 kHz: every frame has a whole number of samples, so sound and picture of a clip end together. */
export const frameRates = [24, 25, 30, 50, 60] as const;
export const sampleRate = 48_000;

const side = z.number().int().min(64).max(3840).multipleOf(2);
const rate = z.union(frameRates.map((fps) => z.literal(fps)));
const fit = z.enum(["pad", "crop"]);

export const mergeRequest = z.object({
  title: z.string().max(200).optional(),
  /** Without them the target follows the clips. */
  width: side.optional(),
  height: side.optional(),
  fps: rate.optional(),
  /** What happens to a clip of another shape: black bars, or the middle of it. */
  fit: fit.default("pad"),
});
export type MergeRequest = z.infer<typeof mergeRequest>;

export const targetSchema = z.object({
  width: side,
  height: side,
  fps: rate,
  fit,
  sample_rate: z.literal(sampleRate),
  channels: z.literal(2),
});
export type Target = z.infer<typeof targetSchema>;

export const numbered = (name: string, index: number): string => `${name}-${String(index).padStart(3, "0")}`;

const uploadResult = z.object({ items: z.array(z.object({ name: z.string(), original: z.string().optional() })) });

export type Clip = {
  readonly input: InputFile;
  /** The caller's name of it. */
  readonly original: string;
  /** Begins messages about it. */
  readonly label: string;
};

/** In the order of the merge. */
export const readClips = (context: StageContext): Clip[] => {
  const { items } = readFields(uploadResult, context.results.upload, "results.upload");
  if (items.length < clipCount.min || items.length > clipCount.max)
    throw new StageFailure(
      "input_invalid",
      `request.media and the uploads make ${items.length} clips, expected ${clipCount.min} to ${clipCount.max}. Upload or list ${items.length < clipCount.min ? "more" : "fewer"}.`,
    );
  return items.map(({ name, original = name }) => ({
    input: inputOf(context, "upload", name),
    original,
    label: `The uploaded file ${JSON.stringify(original)}`,
  }));
};

/** A file between two stages that nobody needs after the job; told from stage to stage until `cleanup` releases it. */
export const intermediatesSchema = z
  .array(z.object({ name: z.string(), sha256: z.string().regex(sha256Pattern), size: z.number().int().min(0) }))
  .max(clipCount.max + 1);
export type Intermediate = z.infer<typeof intermediatesSchema>[number];

export const intermediateOf = (input: InputFile): Intermediate => ({
  name: input.name,
  sha256: input.sha256,
  size: input.sizeBytes,
});

export type Segment = {
  readonly index: number;
  /** The caller's name of the clip. */
  readonly name: string;
  /** Seconds in the result; the end of one clip is the start of the next. */
  readonly start: number;
  readonly end: number;
  readonly start_frame: number;
  /** Exclusive. */
  readonly end_frame: number;
};

/** Pure. Counted in frames; seconds are those frames to the microsecond, never a sum of rounded lengths. */
export const segmentsOf = (clips: readonly { readonly original: string; readonly frames: number }[], fps: number) => {
  const seconds = (frame: number): number => Math.round((frame * 1e6) / fps) / 1e6;
  let frame = 0;
  return clips.map(({ original, frames }, index): Segment => {
    const start = frame;
    frame += frames;
    return {
      index,
      name: original,
      start: seconds(start),
      end: seconds(frame),
      start_frame: start,
      end_frame: frame,
    };
  });
};
