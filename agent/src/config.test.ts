// The agent's settings: defaults that need nothing, clear refusals, and what the stages get from them.
import { ConfigError, redacted } from "@renderplane/proto/kernel/process/environment.ts";
import { expect, test } from "vitest";
import { readConfig, settings, stageConfigOf } from "./config.ts";

test("nothing needs to be set", () => {
  const config = readConfig({});
  expect(config.dir.endsWith("/.renderplane/agent")).toBe(true);
  expect(config.name).toMatch(/^[a-z0-9][a-z0-9.-]{0,62}$/);
  expect(stageConfigOf(config)).toEqual({ ttsProvider: "espeak" });
});

test.each([
  [{ RENDERPLANE_AGENT_NAME: "No Spaces" }, "RENDERPLANE_AGENT_NAME: must be 1 to 63"],
  [{ RENDERPLANE_ENROL_ADDRESS: "http://x" }, "RENDERPLANE_ENROL_ADDRESS: must be host:port"],
  [{ RENDERPLANE_AGENT_DIRR: "x" }, "did you mean RENDERPLANE_AGENT_DIR?"],
  [{ RENDERPLANE_TTS_PROVIDER: "openai" }, "neither OPENAI_API_KEY nor OPENAI_BASE_URL is set"],
  [{ RENDERPLANE_TTS_PROVIDER: "siri" }, "must be espeak or openai"],
  [{ OPENAI_BASE_URL: "ftp://x" }, "OPENAI_BASE_URL: must be an http or https address"],
  [{ RENDERPLANE_SESSION_ADDRESS: "a:1,b" }, "RENDERPLANE_SESSION_ADDRESS: must be host:port, or several"],
  [{ RENDERPLANE_AGENT_TAGS: "rack-7,No Spaces" }, "RENDERPLANE_AGENT_TAGS: must be words of"],
  [{ RENDERPLANE_DRAIN_SECONDS: "-1" }, "RENDERPLANE_DRAIN_SECONDS"],
])("%j is refused", (env, message) => {
  expect(() => readConfig(env)).toThrow(ConfigError);
  expect(() => readConfig(env)).toThrow(message);
});

test("settings of the control plane beside ours are no mistake", () => {
  expect(() => readConfig({ RENDERPLANE_LISTEN: "127.0.0.1:8000", RENDERPLANE_DATA_DIR: "x" })).not.toThrow();
});

test("keys of providers are read, reach the stages and are never printed", () => {
  const env = { OPENAI_API_KEY: "sk-canary", PEXELS_API_KEY: "px-canary", RENDERPLANE_JOIN_TOKEN: "rpj1.canary" };
  const config = readConfig(env);
  expect(stageConfigOf(config)).toMatchObject({
    openai: { apiKey: "sk-canary", baseUrl: "https://api.openai.com/v1" },
    pexels: { apiKey: "px-canary", baseUrl: "https://api.pexels.com" },
  });
  expect(JSON.stringify(redacted(settings, config))).not.toContain("canary");
});

test("lists are read with commas and blanks between, each word once", () => {
  const config = readConfig({
    RENDERPLANE_SESSION_ADDRESS: "r1:7443, r2:7443,[::1]:7443,",
    RENDERPLANE_AGENT_TAGS: "rack-7, licensed,rack-7",
  });
  expect(config.sessionAddress).toEqual(["r1:7443", "r2:7443", "[::1]:7443"]);
  expect(config.tags).toEqual(["rack-7", "licensed"]);
  expect(readConfig({}).tags).toEqual([]);
});
