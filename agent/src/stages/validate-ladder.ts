// Stage kind `validate_ladder`: every rendition of a ladder against its source: codec, size, length, sound, index in front, and a
// decode of every frame. Renditions are whatever the stages before it made (rendition-<height>.mp4); none may be missing its video.
// A check that fails ends the stage as quality_failed with the figure, its bound and the rendition.
import { stat } from "node:fs/promises";
import path from "node:path";
import { failOn } from "../domain/exit.ts";
import { ffmpegArguments } from "../machine/ffmpeg.ts";
import { type InputFile, type StageContext, StageFailure, type StageKind } from "../work/contract.ts";
import { atLeast, type Check, holds, requireAll, same, within } from "./checks.ts";
import { isFastStart } from "./mp4-boxes.ts";
import { type MediaFacts, probe, safeInput, type VideoFacts } from "./probe.ts";
import { readSource, readUpload } from "./transcode.ts";
import { renditionSize } from "./transcode-plan.ts";

const renditionName = /^rendition-(\d{1,4})\.mp4$/;
/** A frame of the slowest common rate (10 fps) and one AAC frame; containers disagree by that much about the same content. */
const durationSlackSeconds = 0.15;

export const validateLadderStage: StageKind = {
  kind: "validate_ladder",
  run: async (context) => {
    const { upload, label } = readUpload(context);
    const source = await readSource(context, upload, label);
    const renditions = context.inputs.filter((input) => input.stage !== "" && renditionName.test(input.name));
    if (renditions.length === 0)
      throw new StageFailure(
        "input_missing",
        "no rendition was given. List the transcode stages under `needs` of this stage in the pipeline.",
      );
    const checks: Check[] = [];
    for (const [i, rendition] of renditions.entries()) {
      const share = { from: i / renditions.length, to: (i + 1) / renditions.length };
      checks.push(...(await checkRendition(context, rendition, source, share)));
    }
    const result = requireAll(checks, "the ladder");
    return { result: { ...result, renditions: renditions.map((rendition) => rendition.name) }, outputs: [] };
  },
};

const checkRendition = async (
  context: StageContext,
  rendition: InputFile,
  source: { readonly media: MediaFacts; readonly video: VideoFacts; readonly seconds: number },
  share: { readonly from: number; readonly to: number },
): Promise<Check[]> => {
  const height = Number(renditionName.exec(rendition.name)?.[1]);
  const file = path.join(context.dir, rendition.path);
  const named = (check: Check): Check => ({ ...check, name: `${height}_${check.name}` });
  const size = atLeast("file_size", (await stat(file)).size, 1, "bytes", 0);
  const facts = await decodes(
    probe(context, `probe-${height}`, rendition.path, rendition.name, { countPackets: true }),
  );
  if (typeof facts === "string") return [size, holds("decodes", false, facts, "a readable video")].map(named);
  const expected = renditionSize(source.video, height);
  const fast = await isFastStart(file);
  const report = await decodes(decodeAll(context, rendition, facts, height, share));
  return [
    size,
    same("video_codec", facts.video?.codec ?? "", "h264"),
    same("pixel_format", facts.video?.pixelFormat ?? "", "yuv420p"),
    same(
      "resolution",
      `${facts.video?.width ?? 0}x${facts.video?.height ?? 0}`,
      `${expected.width}x${expected.height}`,
    ),
    same("audio_codec", facts.audio?.codec ?? "none", source.media.audio ? "aac" : "none"),
    // Where the source does not say its length, there is nothing to compare with.
    ...(source.seconds > 0
      ? [within("duration", facts.video?.durationSeconds ?? 0, source.seconds, durationSlackSeconds, "s", 3)]
      : []),
    atLeast("frames", facts.video?.packets ?? 0, 1, "frames", 0),
    holds("faststart", fast, fast ? "moov before mdat" : "moov behind mdat or missing", "moov before mdat"),
    holds("decodes", typeof report !== "string", typeof report === "string" ? report : "yes", "yes"),
  ].map(named);
};

/** The value, or the first sentence of a failure that lies in the file; failures of the host go on as they are. */
const decodes = async <T>(reading: Promise<T>): Promise<T | string> => {
  try {
    return await reading;
  } catch (error) {
    if (error instanceof StageFailure && ["input_corrupt", "input_refused"].includes(error.failureClass))
      return error.message;
    throw error;
  }
};

const decodeAll = async (
  context: StageContext,
  rendition: InputFile,
  facts: MediaFacts,
  height: number,
  share: { readonly from: number; readonly to: number },
): Promise<true> => {
  const end = await context.process(`decode-${height}`, {
    program: "ffmpeg",
    args: await ffmpegArguments({
      globals: ["-loglevel", "level+warning", "-xerror"],
      inputs: [{ path: rendition.path, options: ["-threads", String(context.threads), ...safeInput(facts.demuxer)] }],
      outputs: [{ path: "-", options: ["-map", "0", "-f", "null"] }],
    }),
    progress: {
      label: `watching ${rendition.name}`,
      ...(facts.durationSeconds === undefined ? {} : { totalMs: facts.durationSeconds * 1000 }),
      ...share,
    },
  });
  failOn(end, `the decode of ${rendition.name}`);
  return true;
};
