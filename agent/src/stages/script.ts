// Makes the script: the request's own text, or a chat completion of its prompt (requirements 002 `_generate_script`).
// It only writes the words down; cutting them into sentences belongs to the speech, their price to the control plane.
import { writeFile } from "node:fs/promises";
import path from "node:path";
import { maxScriptBytes } from "@renderplane/proto/kernel/limits.ts";
import { normaliseScript, splitSentences } from "../domain/sentences.ts";
import { type StageContext, type StageEnd, StageFailure, type StageKind } from "../work/contract.ts";
import { chatProvider, readRequest, type StageConfig } from "./fields.ts";
import { chat, chatLimits } from "./providers/openai.ts";

/** As in requirements 002, for a request without a prompt. */
const defaultPrompt = "Create an engaging YouTube video script";
export const scriptName = "script.txt";

export const createScriptStage = (config: StageConfig, limits = chatLimits): StageKind => ({
  kind: "script",
  run: async (context) => {
    const request = readRequest(context);
    if (request.script === undefined) return generate(context, config, request.prompt ?? defaultPrompt, limits);
    const script = normaliseScript(request.script);
    if (splitSentences(script).length === 0)
      throw new StageFailure(
        "input_invalid",
        "request.script has no word to speak. Send a text with at least one letter or number.",
      );
    if (Buffer.byteLength(script) > maxScriptBytes)
      throw new StageFailure(
        "input_invalid",
        `request.script has ${Buffer.byteLength(script)} bytes, the limit is ${maxScriptBytes}. Split it into several jobs.`,
      );
    return write(context, script, { provider: "request", tokens_used: 0 });
  },
});

const generate = async (
  context: StageContext,
  config: StageConfig,
  prompt: string,
  limits: typeof chatLimits,
): Promise<StageEnd> => {
  const { openai } = config;
  if (!openai)
    throw new StageFailure(
      "host_fault",
      "A prompt needs a language model and this host has none. Set OPENAI_API_KEY on the agent, or send request.script.",
    );
  context.progress({ fraction: 0, step: "writing the script" });
  const answer = await context.once("chat", () => chat(openai, prompt, context.signal, limits));
  const provider = chatProvider(openai.baseUrl);
  const tokens = answer.tokens ?? estimateTokens(`${prompt}${answer.text}`);
  // Before the answer is judged: tokens of a useless answer are paid as well.
  context.usage({ service: "openai", provider, unit: "token", quantity: tokens });
  const script = usableScript(answer.text, answer.finish);
  return write(context, script, {
    provider,
    model: openai.scriptModel,
    tokens_used: tokens,
    ...(answer.tokens === null ? { tokens_estimated: true } : {}),
  });
};

/** Four characters a token, the usual rule for English: a server that reports no usage must not look free. */
const estimateTokens = (text: string): number => Math.ceil(text.length / 4);

const usableScript = (text: string, finish: string): string => {
  const script = normaliseScript(text);
  const sentences = splitSentences(script);
  if (sentences.length === 0)
    throw new StageFailure(
      "provider_bad_answer",
      `The language model answered without a script (finish_reason ${finish.slice(0, 40)}). Change request.prompt or try again.`,
    );
  if (Buffer.byteLength(script) > maxScriptBytes)
    throw new StageFailure(
      "provider_bad_answer",
      `The language model wrote ${Buffer.byteLength(script)} bytes, the limit is ${maxScriptBytes}.`,
    );
  if (finish !== "length") return script;
  // Stopped in the middle of a sentence by max_tokens: the video ends with the last whole one.
  const last = sentences.at(-1) ?? "";
  const isWhole = /[.!?…。！？।]["'”’)\]]*$/u.test(last);
  const at = script.lastIndexOf(last.slice(0, 20));
  return isWhole || at <= 0 ? script : script.slice(0, at).trim();
};

const write = async (
  context: StageContext,
  script: string,
  facts: { readonly [key: string]: unknown },
): Promise<StageEnd> => {
  await writeFile(path.join(context.dir, scriptName), `${script}\n`);
  return {
    result: { script_characters: [...script].length, ...facts },
    outputs: [{ name: scriptName, path: scriptName, mediaType: "text/plain; charset=utf-8" }],
  };
};
