// Stage kind `merge`: the prepared clips end to end in one file, and segments.json: where each clip lies in it, to the frame.
// Nothing is encoded here: the clips have one shape already, so their packets are copied. The list that FFmpeg reads holds only
// names that this file makes, in its safe mode; names of callers stand in segments.json and nowhere else.
import { writeFile } from "node:fs/promises";
import path from "node:path";
import { z } from "zod";
import { failOn } from "../domain/exit.ts";
import { ffmpegArguments } from "../machine/ffmpeg.ts";
import { type StageContext, StageFailure, type StageKind } from "../work/contract.ts";
import { inputOf, readFields } from "./fields.ts";
import { clipCount, intermediateOf, numbered, type Segment, segmentsOf, targetSchema } from "./merge-clips.ts";
import { placeFile } from "./place-file.ts";
import { probe } from "./probe.ts";

export const mergedName = "merged.mov";
export const segmentsName = "segments.json";
const listName = "clips.txt";

const preparationResult = z.object({
  target: targetSchema,
  clips: z
    .array(z.object({ name: z.string(), original: z.string(), frames: z.number().int().min(1) }))
    .min(clipCount.min)
    .max(clipCount.max),
});

export const mergeStage: StageKind = {
  kind: "merge",
  run: async (context) => {
    const { target, clips } = readFields(preparationResult, context.results.preparation, "results.preparation");
    const inputs = clips.map(({ name }) => inputOf(context, "preparation", name));
    for (const [index, input] of inputs.entries())
      await placeFile(path.join(context.dir, input.path), path.join(context.dir, partName(index)));
    const segments = segmentsOf(clips, target.fps);
    const frames = segments.at(-1)?.end_frame ?? 0;
    const duration = segments.at(-1)?.end ?? 0;
    await writeFile(path.join(context.dir, listName), concatList(segments));
    const end = await context.process("merge", {
      program: "ffmpeg",
      args: await ffmpegArguments({
        globals: ["-loglevel", "level+warning"],
        inputs: [{ path: listName, options: ["-protocol_whitelist", "file", "-f", "concat", "-safe", "1"] }],
        outputs: [
          {
            path: mergedName,
            options: ["-map", "0:v:0", "-map", "0:a:0", "-c", "copy", "-map_metadata", "-1", "-f", "mov"],
          },
        ],
      }),
      progress: { label: "merging", totalMs: duration * 1000, from: 0, to: 0.9 },
    });
    failOn(end, "the merge");
    await verify(context, { ...target, frames, duration });
    await writeFile(
      path.join(context.dir, segmentsName),
      `${JSON.stringify({ fps: target.fps, frames, duration, segments }, null, 2)}\n`,
    );
    context.progress({ fraction: 1, step: "merged" });
    return {
      result: {
        duration,
        frames,
        fps: target.fps,
        width: target.width,
        height: target.height,
        clips: segments.length,
        intermediates: inputs.map(intermediateOf),
      },
      outputs: [
        { name: mergedName, path: mergedName, mediaType: "video/quicktime" },
        { name: segmentsName, path: segmentsName, mediaType: "application/json" },
      ],
    };
  },
};

const partName = (index: number): string => `${numbered("part", index)}.mov`;

/** Pure. With the lengths: headers round them to a millisecond, which after some clips is a frame. Differences of exact starts, so no rounding adds up. */
export const concatList = (segments: readonly Segment[]): string =>
  segments.map(({ index, start, end }) => `file ${partName(index)}\nduration ${(end - start).toFixed(6)}\n`).join("");

const verify = async (
  context: StageContext,
  planned: {
    readonly width: number;
    readonly height: number;
    readonly frames: number;
    readonly fps: number;
    readonly duration: number;
  },
): Promise<void> => {
  const { video, audio } = await probe(context, "verify", mergedName, mergedName, { countPackets: true });
  const found = `${video?.packets ?? 0} frames of ${video?.width ?? 0}x${video?.height ?? 0}`;
  const expected = `${planned.frames} frames of ${planned.width}x${planned.height}`;
  if (found !== expected)
    throw new StageFailure("output_invalid", `the merge made ${found}; planned were ${expected}.`);
  for (const [what, stream] of Object.entries({ picture: video, sound: audio })) {
    const seconds = stream?.durationSeconds ?? 0;
    // Half a frame: beyond it a segment would begin on another frame than segments.json says.
    if (Math.abs(seconds - planned.duration) >= 0.5 / planned.fps)
      throw new StageFailure(
        "output_invalid",
        `the ${what} of the merge lasts ${seconds} s; planned were ${planned.duration} s.`,
      );
  }
};
