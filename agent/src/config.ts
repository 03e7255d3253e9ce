// The settings of the agent: one schema, one reader of the environment; docs/configuration.md is made from this table.
// Keys of providers live here and on no other machine; the control plane learns only which services a host has.
import { hostname } from "node:os";
import { resolve } from "node:path";
import { tagPattern } from "@renderplane/proto/kernel/limits.ts";
import { ConfigError, flag, readEnvironment, type Values } from "@renderplane/proto/kernel/process/environment.ts";
import { z } from "zod";
import { defaultScriptModel, defaultTtsModel, defaultTtsVoice, type StageConfig } from "./stages/fields.ts";

const addressPattern = /^(\[[0-9a-fA-F:]+\]|[^:/,]+):\d{1,5}$/;
const address = z.string().regex(addressPattern, "must be host:port");
/** Commas between, blanks around them allowed, empty parts ignored. */
const listOf = (part: RegExp, message: string) =>
  z
    .string()
    .transform((text) => [...new Set(text.split(",").flatMap((one) => one.trim() || []))])
    .pipe(z.array(z.string().regex(part, message)));
/** More words than this describe nothing any more; a stage names a few. */
const maxTags = 64;
/** A day: who wants to wait longer drains the host from the control plane. */
const maxDrainSeconds = 86_400;
const httpUrl = z.url({ protocol: /^https?$/, error: "must be an http or https address" });
const text = (fallback: string) => z.string().min(1).default(fallback);
export const settings = {
  dir: {
    env: "RENDERPLANE_AGENT_DIR",
    schema: z.string().default(".renderplane/agent"),
    help: "Folder of the agent's identity, journal, cache and scratch files; one agent a folder.",
  },
  name: {
    env: "RENDERPLANE_AGENT_NAME",
    schema: z
      .string()
      .regex(/^[a-z0-9][a-z0-9.-]{0,62}$/, "must be 1 to 63 of a-z, 0-9, dot and dash")
      .optional(),
    help: "Name of this host in the fleet. Default: the host name.",
  },
  enrolAddress: {
    env: "RENDERPLANE_ENROL_ADDRESS",
    schema: address.default("127.0.0.1:7444"),
    help: "Where this host enrols, once, with a join token.",
  },
  joinToken: {
    env: "RENDERPLANE_JOIN_TOKEN",
    schema: z.string().optional(),
    secret: true,
    help: "One-time token of the control plane; not needed once the host is enrolled.",
  },
  sessionAddress: {
    env: "RENDERPLANE_SESSION_ADDRESS",
    schema: listOf(addressPattern, "must be host:port, or several with commas between").optional(),
    help: "Where an enrolled agent dials; several replicas with commas between. Default: what enrolment answered.",
  },
  tags: {
    env: "RENDERPLANE_AGENT_TAGS",
    schema: listOf(tagPattern, "must be words of a-z, 0-9, dot, dash and underscore with commas between")
      .pipe(z.array(z.string()).max(maxTags, `must be at most ${maxTags} words`))
      .default([]),
    help: "Words that describe this host, with commas between; a stage may ask for them.",
  },
  drainSeconds: {
    env: "RENDERPLANE_DRAIN_SECONDS",
    schema: z.coerce.number().min(0).max(maxDrainSeconds).default(0),
    help: "How long a stopping agent lets its work end before it gives the rest back. 0: work goes on and the next start adopts it.",
  },
  trialStages: {
    env: "RENDERPLANE_AGENT_TRIAL_STAGES",
    schema: flag.default(false),
    help: "Offers the stage kind trial, which only waits or fails as told: for load tests, never in production.",
  },
  ffmpegPath: { env: "FFMPEG_PATH", schema: text("ffmpeg"), help: "FFmpeg 5.1 or newer: a path, or a name in PATH." },
  ffprobePath: { env: "FFPROBE_PATH", schema: text("ffprobe"), help: "ffprobe of the same FFmpeg." },
  espeakPath: { env: "ESPEAK_PATH", schema: text("espeak-ng"), help: "espeak-ng, the voice that needs no key." },
  openaiBaseUrl: {
    env: "OPENAI_BASE_URL",
    schema: httpUrl.optional(),
    help: "Any OpenAI-compatible endpoint, with its version part. Default with a key: https://api.openai.com/v1.",
  },
  openaiApiKey: {
    env: "OPENAI_API_KEY",
    schema: z.string().optional(),
    secret: true,
    help: "Key for scripts (and speech) from the endpoint; a local server may need none.",
  },
  scriptModel: {
    env: "RENDERPLANE_SCRIPT_MODEL",
    schema: text(defaultScriptModel),
    help: "Model that writes scripts from prompts.",
  },
  ttsProvider: {
    env: "RENDERPLANE_TTS_PROVIDER",
    schema: z.enum(["espeak", "openai"], { error: "must be espeak or openai" }).default("espeak"),
    help: "Who speaks: espeak on this host, or the endpoint of OPENAI_BASE_URL.",
  },
  ttsModel: { env: "RENDERPLANE_TTS_MODEL", schema: text(defaultTtsModel), help: "Speech model of the endpoint." },
  ttsVoice: { env: "RENDERPLANE_TTS_VOICE", schema: text(defaultTtsVoice), help: "Voice of the speech model." },
  pexelsApiKey: {
    env: "PEXELS_API_KEY",
    schema: z.string().optional(),
    secret: true,
    help: "Key for stock clips of Pexels; without it uploads, the library or generated scenes are used.",
  },
  pexelsBaseUrl: {
    env: "PEXELS_BASE_URL",
    schema: httpUrl.default("https://api.pexels.com"),
    help: "Another address of the Pexels API, for a proxy.",
  },
  mediaLibrary: {
    env: "RENDERPLANE_MEDIA_LIBRARY",
    schema: z.string().optional(),
    help: "Folder of clips and pictures whose file names hold their keywords.",
  },
  keepAttempts: {
    env: "RENDERPLANE_KEEP_ATTEMPTS",
    schema: flag.default(false),
    help: "Keeps the folders of finished attempts under kept/, with commands and files, for looking at them. They are never removed.",
  },
  logLevel: {
    env: "LOG_LEVEL",
    schema: z
      .string()
      .default("info")
      .transform((level) => level.toLowerCase())
      .pipe(z.enum(["trace", "debug", "info", "warn", "error", "fatal"])),
    help: "trace, debug, info, warn, error or fatal.",
  },
} as const;

/** Settings of the control plane and of the scripts: known, but not read here. */
export const foreign = [
  "RENDERPLANE_DATA_DIR",
  "RENDERPLANE_LISTEN",
  "RENDERPLANE_GRPC_LISTEN",
  "RENDERPLANE_ENROL_LISTEN",
  "RENDERPLANE_PUBLIC_URL",
  "RENDERPLANE_SERVER_NAMES",
  "RENDERPLANE_PIPELINES_DIR",
  "RENDERPLANE_PRICES_FILE",
  "RENDERPLANE_QUEUE_MAX_DEPTH",
  "RENDERPLANE_COST_WARNING",
  "RENDERPLANE_COST_CRITICAL",
  "RENDERPLANE_COST_HALT",
  "RENDERPLANE_REPLICA",
  "RENDERPLANE_HEARTBEAT_SECONDS",
  "RENDERPLANE_ARTIFACTS_DIR",
  "RENDERPLANE_AGENT_ADDRESS",
  "RENDERPLANE_MAX_RUNNING_JOBS",
  "RENDERPLANE_MAX_RUNNING_JOBS_PER_USER",
  "RENDERPLANE_PROVIDER_LIMITS",
  "RENDERPLANE_KEEP_JOBS_DAYS",
  "RENDERPLANE_SERVER",
  "RENDERPLANE_TEST_BACKENDS",
];

export type Config = Omit<Values<typeof settings>, "name"> & { readonly name: string };

export const readConfig = (env: NodeJS.ProcessEnv): Config => {
  const read = readEnvironment(settings, env, foreign);
  const config: Config = {
    ...read,
    name: read.name ?? defaultName(),
    // Absolute once and for all: shims and programs have other working directories.
    dir: resolve(read.dir),
    mediaLibrary: read.mediaLibrary === undefined ? undefined : resolve(read.mediaLibrary),
  };
  if (config.ttsProvider === "openai" && !hasEndpoint(config))
    throw new ConfigError(
      "RENDERPLANE_TTS_PROVIDER is openai, but neither OPENAI_API_KEY nor OPENAI_BASE_URL is set. Set one, or use espeak.",
    );
  return config;
};

export const stageConfigOf = (config: Config): StageConfig => ({
  ttsProvider: config.ttsProvider,
  ...(hasEndpoint(config)
    ? {
        openai: {
          baseUrl: config.openaiBaseUrl ?? "https://api.openai.com/v1",
          // The client wants a key; a local server without one ignores it.
          apiKey: config.openaiApiKey ?? "none",
          scriptModel: config.scriptModel,
          ttsModel: config.ttsModel,
          ttsVoice: config.ttsVoice,
        },
      }
    : {}),
  ...(config.pexelsApiKey === undefined
    ? {}
    : { pexels: { apiKey: config.pexelsApiKey, baseUrl: config.pexelsBaseUrl } }),
  ...(config.mediaLibrary === undefined ? {} : { mediaLibrary: config.mediaLibrary }),
});

const hasEndpoint = (config: Config): boolean =>
  config.openaiApiKey !== undefined || config.openaiBaseUrl !== undefined;

/** The machine's own name in the letters that a control plane takes. */
const defaultName = (): string =>
  hostname()
    .toLowerCase()
    .replaceAll(/[^a-z0-9.-]+/g, "-")
    .replace(/^[^a-z0-9]+/, "")
    .slice(0, 63) || "host";
