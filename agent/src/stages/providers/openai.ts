// The two calls to an OpenAI-compatible server: one chat completion, one sentence of speech. The only file that knows the
// `openai` package, which is loaded when it is first needed (30 MB of memory that a host without a key never pays).
// Answers are checked field by field: "compatible" servers differ in what they leave out.
import { z } from "zod";
import type { StageConfig } from "../fields.ts";
import { badAnswer, boundedFetch, type Callee, failureOfCall, failureOfStatus } from "./http.ts";

type OpenaiSettings = NonNullable<StageConfig["openai"]>;
export type CallLimits = { readonly timeoutMs: number; readonly maxBytes: number };

/** The model may think for a while; a chat answer of 1500 tokens is some kilobytes. */
export const chatLimits: CallLimits = { timeoutMs: 50_000, maxBytes: 2 * 1024 ** 2 };
/** One sentence; 16 s of 24 kHz WAV are 0.8 MB. */
export const speechLimits: CallLimits = { timeoutMs: 30_000, maxBytes: 32 * 1024 ** 2 };

/** As in requirements 002. */
const scriptSystem = "You are a YouTube script writer.";
const scriptMaxTokens = 1500;
const scriptTemperature = 0.7;

const calleeOf = (settings: OpenaiSettings): Callee => ({
  name: `The OpenAI-compatible server at ${new URL(settings.baseUrl).host}`,
  keySetting: "OPENAI_API_KEY",
  addressSetting: "OPENAI_BASE_URL",
  apiKey: settings.apiKey,
});

const clientOf = async (settings: OpenaiSettings, limits: CallLimits) => {
  const { APIError, OpenAI } = await import("openai");
  const client = new OpenAI({
    baseURL: settings.baseUrl,
    apiKey: settings.apiKey,
    // Explicit, so that nothing comes from variables that our own configuration does not name.
    organization: null,
    project: null,
    logLevel: "off",
    maxRetries: 0,
    timeout: limits.timeoutMs,
    fetch: boundedFetch(limits.maxBytes),
  });
  /** An answer with an error status as our failure; anything else is a call without an answer. */
  const failure = (error: unknown, signal: AbortSignal) => {
    const callee = calleeOf(settings);
    if (!(error instanceof APIError) || error.status === undefined) return failureOfCall(callee, error, signal);
    const retryAfter = error.headers?.get("retry-after") ?? null;
    return failureOfStatus(callee, { status: error.status, retryAfter, body: error.message });
  };
  return { client, failure };
};

const chatAnswer = z.object({
  choices: z
    .array(
      z.object({
        message: z.object({ content: z.string().nullish() }),
        finish_reason: z.string().nullish(),
      }),
    )
    .min(1),
  usage: z.object({ total_tokens: z.number().int().min(0) }).nullish(),
});

export type ChatAnswer = {
  /** "" when the model refused or was filtered. */
  readonly text: string;
  /** null when the server does not report it. */
  readonly tokens: number | null;
  /** "stop", "length", "content_filter", … */
  readonly finish: string;
};

export const chat = async (
  settings: OpenaiSettings,
  prompt: string,
  signal: AbortSignal,
  limits = chatLimits,
): Promise<ChatAnswer> => {
  const { client, failure } = await clientOf(settings, limits);
  let answer: unknown;
  try {
    answer = await client.chat.completions.create(
      {
        model: settings.scriptModel,
        messages: [
          { role: "system", content: scriptSystem },
          { role: "user", content: prompt },
        ],
        max_tokens: scriptMaxTokens,
        temperature: scriptTemperature,
      },
      { signal },
    );
  } catch (error) {
    throw failure(error, signal);
  }
  const parsed = chatAnswer.safeParse(answer);
  if (!parsed.success)
    throw badAnswer(calleeOf(settings), "without choices[0].message.content", JSON.stringify(answer) ?? "");
  const [choice] = parsed.data.choices;
  return {
    text: choice?.message.content ?? "",
    tokens: parsed.data.usage?.total_tokens ?? null,
    finish: choice?.finish_reason ?? "stop",
  };
};

/** One sentence as a WAV file. */
export const speak = async (
  settings: OpenaiSettings,
  text: string,
  signal: AbortSignal,
  limits = speechLimits,
): Promise<Buffer> => {
  const { client, failure } = await clientOf(settings, limits);
  try {
    const response = await client.audio.speech.create(
      { model: settings.ttsModel, voice: settings.ttsVoice, input: text, response_format: "wav" },
      { signal },
    );
    return Buffer.from(await response.arrayBuffer());
  } catch (error) {
    throw failure(error, signal);
  }
};
