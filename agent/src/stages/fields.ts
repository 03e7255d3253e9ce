// What the stage kinds read: the agent's stage settings, the fields of a narrated-video request and the results of other
// stages, each checked again here because an agent trusts no other process with what it plans commands from.
// The control plane checked the request at submission; a failure here names the same field.
import { maxScriptBytes } from "@renderplane/proto/kernel/limits.ts";
import { z } from "zod";
import { type InputFile, type StageContext, StageFailure } from "../work/contract.ts";

/** What this host can reach. Keys live on agents only; the inventory tells the control plane which services there are. */
export type StageConfig = {
  readonly openai?: {
    /** With the version part, e.g. "https://api.openai.com/v1". */
    readonly baseUrl: string;
    readonly apiKey: string;
    readonly scriptModel: string;
    readonly ttsModel: string;
    readonly ttsVoice: string;
  };
  readonly ttsProvider: "espeak" | "openai";
  readonly pexels?: { readonly apiKey: string; readonly baseUrl: string };
  /** Absolute folder of clips and pictures; the file names are the keywords. */
  readonly mediaLibrary?: string;
};

export const defaultScriptModel = "gpt-3.5-turbo";
export const defaultTtsModel = "tts-1";
export const defaultTtsVoice = "alloy";

/** Services of this host as service.provider, for the inventory. */
export const providersOf = (config: StageConfig): string[] => [
  ...(config.openai ? ["openai.chat"] : []),
  ...(config.ttsProvider === "espeak" ? ["tts.espeak"] : []),
  ...(config.ttsProvider === "openai" && config.openai ? ["tts.openai"] : []),
  ...(config.pexels ? ["media_api.pexels"] : []),
  ...(config.mediaLibrary === undefined ? [] : ["media.library"]),
];

/** "api.openai.com" is billed as "openai"; any other endpoint under its own host name, so that prices can differ. */
export const chatProvider = (baseUrl: string): string => {
  const { hostname } = new URL(baseUrl);
  return hostname === "api.openai.com" ? "openai" : hostname;
};

/** An espeak-ng voice name: goes into an argument, so nothing else may pass. */
const languagePattern = /^[a-z]{2,3}(-[a-z0-9]+)*$/;
const shortText = z.string().max(10_000);

/** The request of `narrated-video`, all fields that any of its stages reads. Unknown fields were refused at submission. */
export const narratedRequest = z.object({
  title: shortText.optional(),
  // Bytes, not characters, are limited; a character is never less than one byte.
  script: z.string().max(maxScriptBytes).optional(),
  prompt: z.string().max(maxScriptBytes).optional(),
  keywords: z.array(z.string().min(1).max(100)).min(1).max(10).optional(),
  language: z.string().max(40).regex(languagePattern, "must be a voice name like en-us").default("en-us"),
  captions: z.boolean().default(true),
  media: z.array(z.string().min(1).max(500)).max(100).optional(),
  /** Stored name -> the caller's own name of an upload, for messages and for the order. */
  media_names: z.record(z.string(), z.string()).default({}),
  description: shortText.optional(),
  tags: z.array(z.string().min(1).max(500)).max(100).optional(),
  category: z.string().max(40).default("22"),
  privacy: z.enum(["private", "unlisted", "public"]).default("private"),
});
export type NarratedRequest = z.infer<typeof narratedRequest>;

const explain = (error: z.ZodError, root: string): string =>
  error.issues
    .slice(0, 3)
    .map((issue) => `${[root, ...issue.path].join(".")}: ${issue.message}`)
    .join("; ");

/** Decodes `value` or fails as input_invalid; `root` names it in the message: "request", "params", "results.x". */
export const readFields = <Schema extends z.ZodType>(schema: Schema, value: unknown, root: string): z.infer<Schema> => {
  const parsed = schema.safeParse(value ?? {});
  if (parsed.success) return parsed.data;
  throw new StageFailure("input_invalid", `${explain(parsed.error, root)}. Correct it and submit the job again.`);
};

export const readRequest = (context: StageContext): NarratedRequest =>
  readFields(narratedRequest, context.request, "request");

/** The input that another stage made under this name; its absence is a fault of the pipeline's wiring. */
export const inputOf = (context: StageContext, stage: string, name: string): InputFile => {
  const found = context.inputs.find((input) => input.stage === stage && input.name === name);
  if (found) return found;
  throw new StageFailure(
    "input_missing",
    `${context.stage} needs ${name} of the stage ${stage}, which was not given. List ${stage} under \`needs\` of this stage in the pipeline.`,
  );
};
