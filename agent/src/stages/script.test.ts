// The script stage against the request's own text and against a server that speaks the chat protocol, well and badly.
import { readFileSync } from "node:fs";
import path from "node:path";
import { afterEach, describe, expect, test } from "vitest";
import { type StageEnd, StageFailure } from "../work/contract.ts";
import type { StageConfig } from "./fields.ts";
import { type PlayedServer, playServer, type Reply } from "./providers/testing.ts";
import { createScriptStage } from "./script.ts";
import { createTestContext, type TestContext, type TestContextOptions } from "./testing.ts";

const key = "sk-test-0123456789";
const toClose: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of toClose.splice(0)) await close();
});

const contextFor = (options: TestContextOptions): TestContext => {
  const made = createTestContext({ stage: "script_generation", ...options });
  toClose.push(made.remove);
  return made;
};
const serve = async (reply: Reply | (() => Reply)): Promise<PlayedServer> => {
  const server = await playServer(() => (typeof reply === "function" ? reply() : reply));
  toClose.push(server.close);
  return server;
};
const configFor = (baseUrl: string): StageConfig => ({
  ttsProvider: "espeak",
  openai: { baseUrl, apiKey: key, scriptModel: "gpt-3.5-turbo", ttsModel: "tts-1", ttsVoice: "alloy" },
});
const completion = (content: string | null, more: { finish?: string; tokens?: number | null } = {}) => ({
  id: "chatcmpl-1",
  object: "chat.completion",
  choices: [{ index: 0, message: { role: "assistant", content }, finish_reason: more.finish ?? "stop" }],
  ...(more.tokens === null
    ? {}
    : { usage: { prompt_tokens: 10, completion_tokens: 20, total_tokens: more.tokens ?? 30 } }),
});
const scriptOf = (made: TestContext, end: StageEnd): string =>
  readFileSync(path.join(made.dir, end.outputs[0]?.path ?? ""), "utf8");
const failureOf = async (run: Promise<unknown>): Promise<StageFailure> => {
  const error = await run.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(StageFailure);
  return error as StageFailure;
};

describe("the request's own script", () => {
  const stage = createScriptStage({ ttsProvider: "espeak" });

  test("is kept as it is: unicode, quotes, %, : and ' survive, newlines are normalised", async () => {
    const made = contextFor({ request: { script: "\ufeffIt's 100 %: “naïve” {x} \\N\r\n你好。  \r\n\r\n" } });
    const end = await stage.run(made.context);
    expect(scriptOf(made, end)).toBe("It's 100 %: “naïve” {x} \\N\n你好。\n");
    expect(end.result).toEqual({ script_characters: 30, provider: "request", tokens_used: 0 });
    expect(end.outputs).toEqual([{ name: "script.txt", path: "script.txt", mediaType: "text/plain; charset=utf-8" }]);
    expect(made.uses).toEqual([]);
    expect(made.steps).toEqual([]);
  });

  const refused: readonly (readonly [string, unknown, string])[] = [
    ["without a word", { script: "... !!! 🎉" }, "request.script has no word to speak."],
    ["of the wrong type", { script: 7 }, "request.script: Invalid input: expected string"],
    ["too long in bytes", { script: "é".repeat(60_000) }, "request.script has 120000 bytes, the limit is 100000."],
    ["in an impossible language", { script: "a", language: "-f/etc/passwd" }, "request.language: must be a voice name"],
  ];
  for (const [name, request, message] of refused)
    test(`${name} is refused as input_invalid`, async () => {
      const failure = await failureOf(stage.run(contextFor({ request }).context));
      expect(failure.failureClass).toBe("input_invalid");
      expect(failure.message).toContain(message);
    });

  test("a prompt without a provider names the setting", async () => {
    const failure = await failureOf(stage.run(contextFor({ request: { prompt: "Tell me of bees" } }).context));
    expect(failure.failureClass).toBe("host_fault");
    expect(failure.message).toContain("OPENAI_API_KEY");
  });
});

describe("a chat completion", () => {
  test("[S156] asks as requirements 002 does and answers script and tokens_used; tokens are billed", async () => {
    const server = await serve({ body: completion("Bees dance. They hum.", { tokens: 1234 }) });
    const made = contextFor({ request: {} });
    const stage = createScriptStage(configFor(`${server.url}/v1`));
    const end = await stage.run(made.context);

    const asked = server.asked[0];
    expect([asked?.method, asked?.path, asked?.headers.authorization]).toEqual([
      "POST",
      "/v1/chat/completions",
      `Bearer ${key}`,
    ]);
    expect(JSON.parse(asked?.body ?? "")).toEqual({
      model: "gpt-3.5-turbo",
      messages: [
        { role: "system", content: "You are a YouTube script writer." },
        { role: "user", content: "Create an engaging YouTube video script" },
      ],
      max_tokens: 1500,
      temperature: 0.7,
    });
    expect(scriptOf(made, end)).toBe("Bees dance. They hum.\n");
    expect(end.result).toMatchObject({ tokens_used: 1234, provider: "127.0.0.1", script_characters: 21 });
    expect(made.uses).toEqual([{ service: "openai", provider: "127.0.0.1", unit: "token", quantity: 1234 }]);
  });

  test("is paid once across an agent restart", async () => {
    const server = await serve({ body: completion("Bees dance.") });
    const stage = createScriptStage(configFor(`${server.url}/v1`));
    const made = contextFor({ request: { prompt: "Tell me of bees" } });
    await stage.run(made.context);
    const replayed = made.again();
    const end = await stage.run(replayed.context);
    expect(server.asked).toHaveLength(1);
    expect(JSON.parse(server.asked[0]?.body ?? "").messages[1].content).toBe("Tell me of bees");
    expect(scriptOf(replayed, end)).toBe("Bees dance.\n");
    expect(replayed.uses).toEqual(made.uses);
  });

  test("that was cut by max_tokens ends with its last whole sentence", async () => {
    const server = await serve({ body: completion("One is here.\nTwo is here. Three is ha", { finish: "length" }) });
    const made = contextFor({ request: {} });
    const end = await createScriptStage(configFor(server.url)).run(made.context);
    expect(scriptOf(made, end)).toBe("One is here.\nTwo is here.\n");
  });

  test("without reported usage is estimated, never free", async () => {
    const server = await serve({ body: completion("x".repeat(361), { tokens: null }) });
    const made = contextFor({ request: {} });
    const end = await createScriptStage(configFor(server.url)).run(made.context);
    expect(end.result).toMatchObject({ tokens_used: 100, tokens_estimated: true });
    expect(made.uses[0]?.quantity).toBe(100);
  });

  type Case = readonly [name: string, reply: Reply, failureClass: string, ...texts: string[]];
  const bad: readonly Case[] = [
    [
      "429 with Retry-After",
      { status: 429, headers: { "retry-after": "20" }, body: { error: { message: "Rate limit reached" } } },
      "provider_quota",
      "HTTP 429",
      "Retry-After: 20",
    ],
    ["500", { status: 500, body: { error: { message: "boom" } } }, "provider_unavailable", "HTTP 500"],
    [
      "503 with a page",
      { status: 503, headers: { "content-type": "text/html" }, body: "<h1>no</h1>" },
      "provider_unavailable",
      "HTTP 503",
    ],
    ["401", { status: 401, body: { error: { message: `bad key ${key}` } } }, "provider_auth", "Check OPENAI_API_KEY"],
    ["403", { status: 403, body: {} }, "provider_auth", "HTTP 403"],
    [
      "404 for the model",
      { status: 404, body: { error: { message: "no such model" } } },
      "provider_bad_answer",
      "HTTP 404",
    ],
    [
      "a redirect",
      { status: 302, headers: { location: "http://127.0.0.1:1/" } },
      "provider_bad_answer",
      "redirects are not followed",
    ],
    ["bad JSON", { body: '{"choices": [' }, "provider_bad_answer", "did not answer in JSON"],
    ["no choices", { body: { choices: [] } }, "provider_bad_answer", "without choices[0].message.content"],
    ["another shape", { body: { hello: 1 } }, "provider_bad_answer", "without choices[0].message.content"],
    [
      "text instead of JSON",
      { headers: { "content-type": "text/plain" }, body: "hello" },
      "provider_bad_answer",
      "without choices",
    ],
    [
      "an empty script",
      { body: completion(null, { finish: "content_filter" }) },
      "provider_bad_answer",
      "content_filter",
    ],
    ["an endless body", "endless", "provider_bad_answer", "larger than 2097152 bytes"],
    ["a connection cut in the body", "cut", "provider_unavailable", "did not answer"],
    ["no answer in time", "hang", "provider_unavailable", "did not answer"],
  ];
  for (const [name, reply, failureClass, ...texts] of bad)
    test(`${name} is ${failureClass}, asked once, and never shows the key`, async () => {
      const server = await serve(reply);
      const limits = { timeoutMs: reply === "hang" ? 300 : 10_000, maxBytes: 2 * 1024 ** 2 };
      const stage = createScriptStage(configFor(`${server.url}/v1`), limits);
      const failure = await failureOf(stage.run(contextFor({ request: {} }).context));
      expect(failure.failureClass).toBe(failureClass);
      for (const text of texts) expect(failure.message).toContain(text);
      expect(`${failure.message}${failure.evidence}`).not.toContain(key);
      expect(server.asked).toHaveLength(1);
      expect(server.sentBytes()).toBeLessThan(64 * 1024 ** 2);
    });

  test("tokens of a useless answer are billed too", async () => {
    const server = await serve({ body: completion("", { tokens: 77 }) });
    const made = contextFor({ request: {} });
    await failureOf(createScriptStage(configFor(server.url)).run(made.context));
    expect(made.uses).toEqual([{ service: "openai", provider: "127.0.0.1", unit: "token", quantity: 77 }]);
  });

  test("a port where nobody listens is provider_unavailable with the cause", async () => {
    const server = await serve({});
    await server.close();
    const failure = await failureOf(createScriptStage(configFor(server.url)).run(contextFor({ request: {} }).context));
    expect(failure.failureClass).toBe("provider_unavailable");
    expect(failure.message).toContain("ECONNREFUSED");
  });

  test("a stop ends the call with the reason of the stop", async () => {
    const server = await serve("hang");
    const stop = new AbortController();
    const reason = new Error("the lease was lost");
    const run = createScriptStage(configFor(server.url)).run(contextFor({ request: {}, signal: stop.signal }).context);
    await expect.poll(() => server.asked.length).toBe(1);
    stop.abort(reason);
    await expect(run).rejects.toBe(reason);
  });
});
