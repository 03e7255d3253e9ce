// Makes the package that is uploaded: the video, a thumbnail of its best frame, the metadata, the captions and a list of
// checksums that `sha256sum -c` verifies. It changes no byte of the video and judges nothing: validation came before.
import { createHash } from "node:crypto";
import { readFile, writeFile } from "node:fs/promises";
import path from "node:path";
import { z } from "zod";
import { failOn } from "../domain/exit.ts";
import { type InputFile, type OutputFile, type StageContext, StageFailure, type StageKind } from "../work/contract.ts";
import { inputOf, readFields, readRequest } from "./fields.ts";
import { planMetadata } from "./package-plan.ts";
import { placeFile } from "./place-file.ts";
import { scriptName } from "./script.ts";

const renderedBy = "video_rendering";
const thumbnailName = "thumbnail.jpg";
/** YouTube's limit for a thumbnail is 2 MB; 1280x720 at this quality stays below 0.5 MB. */
const thumbnailFilter = "scale=1280:720:force_original_aspect_ratio=increase,crop=1280:720,setsar=1";
/** Key frames that are compared; at one every two seconds that is more than three minutes. */
const comparedFrames = 100;
/** Longer videos skip their opening, which is often a title or a fade; shorter ones have no key frame to spare. */
const skipOpeningFromSeconds = 30;

const renderResult = z.object({ duration: z.number().min(0).default(0) });
const mediaResult = z.object({
  items: z
    .array(
      z.object({ attribution: z.object({ author: z.string(), page_url: z.string(), licence: z.string() }).optional() }),
    )
    .default([]),
});

export const packageStage: StageKind = {
  kind: "package",
  run: async (context) => {
    const request = readRequest(context);
    const video = inputOf(context, renderedBy, "video.mp4");
    const captions = inputOf(context, renderedBy, "captions.srt");
    const script = await readFile(
      path.join(context.dir, inputOf(context, "script_generation", scriptName).path),
      "utf8",
    );
    const { duration } = readFields(renderResult, context.results[renderedBy], `results.${renderedBy}`);

    await takeThumbnail(context, video, duration);
    const { metadata, shortened } = planMetadata(request, script.trim(), creditsOf(context));
    await writeFile(path.join(context.dir, "metadata.json"), `${JSON.stringify(metadata, null, 2)}\n`);
    await placeFile(path.join(context.dir, video.path), path.join(context.dir, "video.mp4"));
    await placeFile(path.join(context.dir, captions.path), path.join(context.dir, "captions.srt"));

    const files = [
      { name: "video.mp4", sha256: video.sha256, size: video.sizeBytes },
      await sealed(context, thumbnailName),
      await sealed(context, "metadata.json"),
      { name: "captions.srt", sha256: captions.sha256, size: captions.sizeBytes },
    ];
    await writeFile(
      path.join(context.dir, "checksums.sha256"),
      files.map((file) => `${file.sha256}  ${file.name}\n`).join(""),
    );
    return {
      result: { upload_ready: true, metadata, thumbnail: thumbnailName, files, shortened },
      outputs: outputs.map(([name, mediaType]): OutputFile => ({ name, path: name, mediaType })),
    };
  },
};

const outputs: readonly (readonly [string, string])[] = [
  ["video.mp4", "video/mp4"],
  [thumbnailName, "image/jpeg"],
  ["metadata.json", "application/json"],
  ["captions.srt", "application/x-subrip"],
  ["checksums.sha256", "text/plain; charset=utf-8"],
];

/** FFmpeg's `thumbnail` takes the frame nearest to the average of those it sees; only key frames are decoded. */
const takeThumbnail = async (context: StageContext, video: InputFile, duration: number): Promise<void> => {
  const opening = duration >= skipOpeningFromSeconds ? ["-ss", (duration * 0.1).toFixed(3)] : [];
  const end = await context.process("thumbnail", {
    program: "ffmpeg",
    args: [
      ...["-loglevel", "level+warning", "-threads", String(context.threads), "-protocol_whitelist", "file"],
      ...["-skip_frame", "nokey", ...opening, "-f", "mov", "-i", video.path],
      ...["-map", "0:v:0", "-vf", `thumbnail=n=${comparedFrames},${thumbnailFilter}`],
      ...["-frames:v", "1", "-q:v", "3", "-fflags", "+bitexact", "-c:v", "mjpeg", "-f", "image2", "-update", "1"],
      thumbnailName,
    ],
    progress: { label: "choosing the thumbnail", from: 0, to: 0.9 },
  });
  failOn(end, "the thumbnail");
};

const sealed = async (
  context: StageContext,
  name: string,
): Promise<{ readonly name: string; readonly sha256: string; readonly size: number }> => {
  const bytes = await readFile(path.join(context.dir, name)).catch(() => Buffer.alloc(0));
  if (bytes.length === 0) throw new StageFailure("output_invalid", `${name} is missing or empty after it was made.`);
  return { name, sha256: createHash("sha256").update(bytes).digest("hex"), size: bytes.length };
};

/** One line an author: stock licences ask for credit where it is possible. */
const creditsOf = (context: StageContext): string[] => {
  const { items } = readFields(mediaResult, context.results.media_collection, "results.media_collection");
  return [
    ...new Set(
      items.flatMap(({ attribution }) =>
        attribution ? [`Video by ${attribution.author} (${attribution.licence}): ${attribution.page_url}`] : [],
      ),
    ),
  ];
};
