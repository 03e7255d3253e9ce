// Looks into one media file before anything else does: its first bytes choose the demuxer, then ffprobe decodes a few
// frames with that demuxer forced and only the file protocol allowed. What passes here has a picture that decodes.
// Messages use the caller's name of the file and say what to do with it.
import { open } from "node:fs/promises";
import path from "node:path";
import { z } from "zod";
import { acceptedWords, type MediaType, sniffBytes, sniffMedia } from "../domain/media-type.ts";
import { type ProcessEnd, type StageContext, StageFailure } from "../work/contract.ts";

export type MediaFacts = MediaType & {
  /** Seconds; 0 for a picture and where the file does not say. */
  readonly duration: number;
  /** As shown: after the rotation that the file asks for. */
  readonly width: number;
  readonly height: number;
  /** 0, 90, 180 or 270. */
  readonly rotation: number;
};

/** 8192 x 8192; a picture beyond it would take more memory to decode than a stage is given. */
const maxPixels = 67_108_864;
/** A transport stream may begin between two key frames: the first packets may give no picture. */
const probedFrames = 30;
const probeStallMs = 30_000;

const number = z.coerce.number().catch(0);
const probeAnswer = z.object({
  streams: z
    .array(
      z.object({
        width: number.default(0),
        height: number.default(0),
        duration: number.default(0),
        disposition: z
          .object({ attached_pic: number.default(0) })
          .partial()
          .default({}),
        tags: z.object({ rotate: number.optional() }).default({}),
        side_data_list: z.array(z.object({ rotation: number.optional() })).default([]),
      }),
    )
    .default([]),
  frames: z.array(z.unknown()).default([]),
  format: z.object({ duration: number.default(0) }).default({ duration: 0 }),
});

/** `step` names the durable step; `file` is relative to the work folder; `what` begins the messages. */
export const probeMedia = async (
  context: StageContext,
  step: string,
  file: string,
  what: string,
): Promise<MediaFacts> => {
  const sniffed = sniffMedia(await headOf(path.join(context.dir, file)));
  if (!sniffed.ok) {
    const empty = sniffed.reason === "empty";
    const advice = empty ? "Upload it again." : `Send ${acceptedWords}.`;
    const lists = sniffed.reason === "list" ? " Lists that name other files are never opened." : "";
    throw new StageFailure(empty ? "input_corrupt" : "input_refused", `${what} is ${sniffed.what}.${lists} ${advice}`);
  }
  const { type } = sniffed;
  const end = await context.process(step, {
    program: "ffprobe",
    args: [
      ...["-v", "error", "-protocol_whitelist", "file", "-f", type.demuxer, "-max_pixels", String(maxPixels)],
      ...["-threads", "1", "-select_streams", "v:0", "-read_intervals", `%+#${probedFrames}`, "-show_entries"],
      "format=duration:stream=width,height,duration:stream_side_data=rotation:stream_tags=rotate:stream_disposition=attached_pic:frame=width",
      ...["-of", "json", file],
    ],
    stallMs: probeStallMs,
  });
  return factsOf(end, type, what);
};

const factsOf = (end: ProcessEnd, type: MediaType, what: string): MediaFacts => {
  const more = { evidence: end.stderr.slice(-4_096), exit: String(end.exitCode ?? end.signal) };
  if (end.exitCode === 127)
    throw new StageFailure(
      "missing_program",
      "ffprobe is not installed on this host. Install it with: apt-get install ffmpeg",
      more,
    );
  if (end.exitCode === null) throw new StageFailure("killed", `ffprobe was ended by ${end.signal}.`, more);
  if (/Picture size \d+x\d+ (is invalid|exceeds)/.test(end.stderr))
    throw new StageFailure(
      "input_refused",
      `${what} has more than ${maxPixels / 2 ** 20} megapixels a frame. Send it smaller, 3840x2160 is plenty.`,
      more,
    );
  const answer = end.exitCode === 0 ? answerOf(end.stdout) : undefined;
  if (!answer)
    throw new StageFailure(
      "input_corrupt",
      `${what} looks like ${type.mediaType} but cannot be read: ${lastLine(end.stderr)}. Export it again and check that it was copied whole.`,
      more,
    );
  const [stream] = answer.streams;
  if (!stream || stream.disposition.attached_pic === 1)
    throw new StageFailure("input_refused", `${what} has no picture, only sound. Send ${acceptedWords}.`, more);
  if (answer.frames.length === 0 || stream.width <= 0 || stream.height <= 0)
    throw new StageFailure(
      "input_corrupt",
      `${what} has no picture that can be decoded${end.stderr === "" ? "" : `: ${lastLine(end.stderr)}`}. Export it again and check that it was copied whole.`,
      more,
    );
  const turn = stream.side_data_list.find((data) => data.rotation !== undefined)?.rotation ?? stream.tags.rotate ?? 0;
  const rotation = (((Math.round(turn / 90) * 90) % 360) + 360) % 360;
  const isTurned = rotation === 90 || rotation === 270;
  return {
    ...type,
    duration: type.media === "picture" ? 0 : Math.max(0, stream.duration || answer.format.duration),
    width: isTurned ? stream.height : stream.width,
    height: isTurned ? stream.width : stream.height,
    rotation,
  };
};

const answerOf = (stdout: string): z.infer<typeof probeAnswer> | undefined => {
  try {
    return probeAnswer.safeParse(JSON.parse(stdout)).data;
  } catch {
    return undefined;
  }
};

/** Without the demuxer's name and address in front, and without the path that only this host knows. */
const lastLine = (stderr: string): string =>
  (stderr.trim().split("\n").at(-1) ?? "")
    .replace(/^\[[^\]]*\]\s*/, "")
    .replace(/^\S+: /, "")
    .slice(0, 200) || "no reason given";

const headOf = async (file: string): Promise<Buffer> => {
  const handle = await open(file, "r");
  try {
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(sniffBytes), 0, sniffBytes, 0);
    return buffer.subarray(0, bytesRead);
  } finally {
    await handle.close();
  }
};
