// The list of kinds is complete for the pipelines that exist, and the inventory's services follow the settings.
import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { chatProvider, providersOf, type StageConfig } from "./fields.ts";
import { stageKinds } from "./registry.ts";

const openai = { baseUrl: "https://api.openai.com/v1", apiKey: "k", scriptModel: "m", ttsModel: "t", ttsVoice: "v" };

describe("stageKinds", () => {
  const kinds = stageKinds({ ttsProvider: "espeak" }).map((stage) => stage.kind);

  test("no kind is there twice", () => expect(new Set(kinds).size).toBe(kinds.length));

  test("every kind that a pipeline names can run", () => {
    const pipelines = new URL("../../../control-plane/pipelines/", import.meta.url);
    const named = readdirSync(pipelines)
      .filter((name) => name.endsWith(".yaml"))
      .flatMap((name) => [...readFileSync(new URL(name, pipelines), "utf8").matchAll(/^\s+kind:\s*([\w-]+)/gm)])
      .map((match) => match[1]);
    expect(named.length).toBeGreaterThan(6);
    for (const kind of named) expect(kinds).toContain(kind);
  });
});

describe("providersOf", () => {
  const table: readonly (readonly [string, StageConfig, readonly string[]])[] = [
    ["nothing set", { ttsProvider: "espeak" }, ["tts.espeak"]],
    ["a key", { ttsProvider: "espeak", openai }, ["openai.chat", "tts.espeak"]],
    ["speech by the key", { ttsProvider: "openai", openai }, ["openai.chat", "tts.openai"]],
    ["speech without its key", { ttsProvider: "openai" }, []],
    [
      "everything",
      { ttsProvider: "espeak", openai, pexels: { apiKey: "p", baseUrl: "https://api.pexels.com" }, mediaLibrary: "/m" },
      ["openai.chat", "tts.espeak", "media_api.pexels", "media.library"],
    ],
  ];
  for (const [name, config, providers] of table) test(name, () => expect(providersOf(config)).toEqual(providers));

  test("the price table's provider is openai for its own address and the host otherwise", () => {
    expect(chatProvider(openai.baseUrl)).toBe("openai");
    expect(chatProvider("http://127.0.0.1:9999/v1")).toBe("127.0.0.1");
  });
});
