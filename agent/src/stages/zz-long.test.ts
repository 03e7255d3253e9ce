import { test } from "vitest";
import { createSpeechStage } from "/work/main/agent/src/stages/speech.ts";
import { createTestContext } from "/work/main/agent/src/stages/testing.ts";
test("100 KB", async () => {
  const made = createTestContext({ stage: "audio_synthesis" });
  made.addInput("script_generation", "script.txt", { bytes: "The quick brown fox, aged 3.5 years, jumps over it; then it sleeps for a while under the tall tree. ".repeat(1000) });
  const t = performance.now();
  const end = await createSpeechStage({ ttsProvider: "espeak" }).run(made.context);
  console.log(performance.now() - t, end.result, made.steps.length);
  made.remove();
}, 300_000);
