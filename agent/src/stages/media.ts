// Collects the scenes of the video: the caller's uploads in the asked order, else stock clips, else the host's library, else
// drawn backgrounds. Every file is probed before it becomes a scene, whatever its source; a bad upload is the caller's to
// mend and fails the stage, a bad file from elsewhere is passed over. How long a scene is shown is the render's decision.
import { constants, copyFile, readFile, rename, stat } from "node:fs/promises";
import path from "node:path";
import { z } from "zod";
import { failOn } from "../domain/exit.ts";
import { type InputFile, type OutputFile, type StageContext, StageFailure, type StageKind } from "../work/contract.ts";
import { backgroundArguments, planBackgrounds } from "./backgrounds.ts";
import { type NarratedRequest, readFields, readRequest, type StageConfig } from "./fields.ts";
import { searchLibrary } from "./library.ts";
import { placeFile } from "./place-file.ts";
import { type MediaFacts, probeMedia } from "./probe-media.ts";
import { downloadVideo, pexelsLimits, type StockVideo, searchVideos } from "./providers/pexels.ts";
import { scriptName } from "./script.ts";

/** As in requirements 002. */
const defaultKeywords = ["nature", "technology"];
const maxKeywords = 2;
/** Reading speed of the default voice, measured; only the number of scenes depends on it. */
const charactersPerSecond = 15;
const secondsPerScene = 8;
const drawnScenes = { min: 3, max: 6 } as const;
/** Their items must fit into the result of a stage (maxResultBytes), names of 255 bytes included. */
const maxScenes = 100;
const stockScenes = { min: 3, max: 10 } as const;

const sources = ["upload", "pexels", "library", "generated"] as const;
/** A pipeline that is about the caller's own clips narrows these; without them anything that makes a scene will do. */
const mediaParams = z.object({
  sources: z
    .array(z.enum(sources))
    .min(1)
    .default([...sources]),
  accept: z
    .array(z.enum(["video", "picture"]))
    .min(1)
    .default(["video", "picture"]),
  max: z.number().int().min(1).max(maxScenes).default(maxScenes),
});
type Params = z.infer<typeof mediaParams>;

export type SceneItem = {
  readonly name: string;
  readonly source: (typeof sources)[number];
  readonly media: "video" | "picture";
  readonly duration: number;
  readonly width: number;
  readonly height: number;
  /** The caller's own name of an upload, or the library's file name. */
  readonly original?: string;
  readonly url?: string;
  readonly attribution?: StockVideo["attribution"];
};
/** A probed file of the work folder and what its item says beside the facts. */
type Scene = {
  readonly file: string;
  readonly facts: MediaFacts;
  readonly about: Pick<SceneItem, "source" | "original" | "url" | "attribution">;
};

export const createMediaStage = (config: StageConfig, limits = pexelsLimits): StageKind => ({
  kind: "media",
  run: async (context) => {
    const params = readFields(mediaParams, context.params, "params");
    const request = readRequest(context);
    const uploads = params.sources.includes("upload") ? orderedUploads(context, request, params.max) : [];
    const scenes =
      uploads.length > 0
        ? await fromUploads(context, uploads, params)
        : await withoutUploads(context, config, params, request, limits);
    const items: SceneItem[] = [];
    const outputs: OutputFile[] = [];
    for (const [index, { file, facts, about }] of scenes.entries()) {
      const name = `scene-${String(index).padStart(3, "0")}.${facts.extension}`;
      await placeFile(path.join(context.dir, file), path.join(context.dir, name));
      const { media, duration, width, height } = facts;
      items.push({ name, media, duration, width, height, ...about });
      outputs.push({ name, path: name, mediaType: facts.mediaType });
    }
    return { result: { items }, outputs };
  },
});

type Upload = { readonly input: InputFile; readonly original: string };

/** request.media first, in its order and as often as it says; then what it does not mention, as it was sent. */
const orderedUploads = (context: StageContext, request: NarratedRequest, max: number): Upload[] => {
  const uploads = context.inputs
    .filter((input) => input.stage === "")
    .map((input) => ({ input, original: request.media_names[input.name] ?? input.name }));
  const asked = (request.media ?? []).map((name, index) => {
    const found =
      uploads.find((upload) => upload.original === name) ?? uploads.find(({ input }) => input.name === name);
    if (found) return found;
    throw new StageFailure(
      "input_missing",
      `request.media[${index}] is ${JSON.stringify(name)}, but no file of this name was uploaded with the job. Upload it or leave it out.`,
    );
  });
  const ordered = [...asked, ...uploads.filter((upload) => !asked.includes(upload))];
  if (ordered.length <= max) return ordered;
  throw new StageFailure(
    "input_invalid",
    `request.media and the uploads make ${ordered.length} scenes, the limit is ${max}. Upload or list fewer.`,
  );
};

const fromUploads = async (
  context: StageContext,
  uploads: readonly Upload[],
  { accept }: Pick<Params, "accept">,
): Promise<Scene[]> => {
  const scenes: Scene[] = [];
  const known = new Map<string, MediaFacts>();
  for (const { input, original } of uploads) {
    const step = `probe-upload-${context.inputs.indexOf(input)}`;
    const what = `The uploaded file ${JSON.stringify(original)}`;
    const facts = known.get(step) ?? (await probeMedia(context, step, input.path, what));
    known.set(step, facts);
    if (!accept.includes(facts.media))
      throw new StageFailure("input_refused", `${what} is a ${facts.media}, expected a ${accept.join(" or a ")}.`);
    scenes.push({ file: input.path, facts, about: { source: "upload", original } });
    context.progress({ fraction: scenes.length / uploads.length, step: "checking the uploads" });
  }
  return scenes;
};

const withoutUploads = async (
  context: StageContext,
  config: StageConfig,
  { sources }: Params,
  request: NarratedRequest,
  limits: typeof pexelsLimits,
): Promise<Scene[]> => {
  const keywords = (request.keywords ?? defaultKeywords).slice(0, maxKeywords);
  const seconds = await spokenSeconds(context);
  const count = ({ min, max }: { min: number; max: number }): number =>
    Math.max(min, Math.min(max, Math.ceil(seconds / secondsPerScene)));
  if (config.pexels && sources.includes("pexels")) {
    const scenes = await fromPexels(context, config.pexels, keywords, count(stockScenes), limits);
    if (scenes.length > 0) return scenes;
    context.log.info({ keywords }, "no usable stock video; looking further");
  }
  if (config.mediaLibrary !== undefined && sources.includes("library")) {
    const scenes = await fromLibrary(context, config.mediaLibrary, keywords, count(stockScenes));
    if (scenes.length > 0) return scenes;
    context.log.info({ keywords }, "no usable file in the media library; looking further");
  }
  if (!sources.includes("generated"))
    throw new StageFailure(
      "input_missing",
      `No usable media was found; this pipeline takes it from: ${sources.join(", ")}. Send at least one file with the job.`,
    );
  return drawn(context, count(drawnScenes));
};

/** From the length of the script, because the speech is made at the same time as this stage runs. */
const spokenSeconds = async (context: StageContext): Promise<number> => {
  const script = context.inputs.find((input) => input.stage === "script_generation" && input.name === scriptName);
  if (!script) return 0;
  return (await readFile(path.join(context.dir, script.path), "utf8")).length / charactersPerSecond;
};

const fromPexels = async (
  context: StageContext,
  settings: NonNullable<StageConfig["pexels"]>,
  keywords: readonly string[],
  wanted: number,
  limits: typeof pexelsLimits,
): Promise<Scene[]> => {
  const found: StockVideo[][] = [];
  for (const [index, keyword] of keywords.entries()) {
    context.progress({ fraction: 0.1 * (index / keywords.length), step: "searching stock video" });
    found.push(await context.once(`search-${index}`, () => searchVideos(settings, keyword, context.signal, limits)));
    context.usage({ service: "media_api", provider: "pexels", unit: "request", quantity: index + 1 });
  }
  const scenes: Scene[] = [];
  for (const [index, video] of inTurn(found).entries()) {
    if (scenes.length >= wanted) break;
    const file = `stock-${index}`;
    const target = path.join(context.dir, file);
    const got = await context.once(`download-${index}`, () =>
      downloadVideo(settings, video.link, target, context.signal, limits),
    );
    if (!got.ok) {
      context.log.warn({ reason: got.reason, page: video.attribution.page_url }, "a stock video was passed over");
      continue;
    }
    if ((await stat(target).catch(() => undefined))?.size !== got.bytes)
      throw new StageFailure("transient", `The stock video ${file} is no longer whole on this host. Try again.`);
    const facts = await probeOrSkip(context, `probe-stock-${index}`, file, video.attribution.page_url);
    const about = { source: "pexels", url: video.link, attribution: video.attribution } as const;
    if (facts) scenes.push({ file, facts, about });
    context.progress({ fraction: 0.1 + (0.9 * scenes.length) / wanted, step: "downloading stock video" });
  }
  return scenes;
};

/** One of each list, then the second of each: every keyword is seen early in the video. */
const inTurn = <T>(lists: readonly (readonly T[])[]): T[] =>
  Array.from({ length: Math.max(0, ...lists.map((list) => list.length)) }, (_, round) =>
    lists.flatMap((list) => list.slice(round, round + 1)),
  ).flat();

const fromLibrary = async (
  context: StageContext,
  folder: string,
  keywords: readonly string[],
  wanted: number,
): Promise<Scene[]> => {
  // Once: the folder may change between two starts of the agent, the steps of this stage may not.
  const files = await context.once("library", () =>
    searchLibrary(folder, keywords, wanted * 2).catch((error: unknown) => {
      throw new StageFailure(
        "host_fault",
        `The media library ${folder} cannot be read: ${error instanceof Error ? error.message : error}. Correct RENDERPLANE_MEDIA_LIBRARY on this host.`,
      );
    }),
  );
  const scenes: Scene[] = [];
  for (const [index, original] of files.entries()) {
    if (scenes.length >= wanted) break;
    const file = `library-${index}`;
    const copied = await copyOnce(original, path.join(context.dir, file));
    const facts = copied ? await probeOrSkip(context, `probe-library-${index}`, file, original) : undefined;
    if (facts) scenes.push({ file, facts, about: { source: "library", original: path.basename(original) } });
  }
  return scenes;
};

/** false when it cannot be read. A copy that is there stays: the library may have lost the file since. */
const copyOnce = async (from: string, to: string): Promise<boolean> => {
  if (await stat(to).catch(() => undefined)) return true;
  const part = `${to}.part`;
  return copyFile(from, part, constants.COPYFILE_FICLONE)
    .then(() => rename(part, to))
    .then(
      () => true,
      () => false,
    );
};

/** undefined when the file is no usable media; anything else about the host is still a failure. */
const probeOrSkip = async (
  context: StageContext,
  step: string,
  file: string,
  origin: string,
): Promise<MediaFacts | undefined> => {
  try {
    return await probeMedia(context, step, file, `The file ${JSON.stringify(path.basename(origin))}`);
  } catch (error) {
    const isFile = error instanceof StageFailure && /^input_/.test(error.failureClass);
    if (!isFile) throw error;
    context.log.warn({ reason: error.message, origin }, "a media file was passed over");
    return undefined;
  }
};

const drawn = async (context: StageContext, count: number): Promise<Scene[]> => {
  const backgrounds = planBackgrounds(context.jobId, count);
  context.progress({ fraction: 0, step: "drawing backgrounds" });
  const end = await context.process("backgrounds", { program: "ffmpeg", args: backgroundArguments(backgrounds) });
  failOn(end, "the drawing of the backgrounds");
  // Not probed: the host made them, FFmpeg's exit was judged, and a probe costs as much as the drawing.
  for (const { file } of backgrounds)
    if (!(await stat(path.join(context.dir, file)).catch(() => undefined))?.size)
      throw new StageFailure("output_invalid", `FFmpeg ended well but ${file} is missing or empty.`);
  return backgrounds.map(({ file, facts }) => ({ file, facts, about: { source: "generated" } }));
};
