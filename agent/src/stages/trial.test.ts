// The trial stage waits, fails with the class that it is told, follows its signal, and is in no inventory by itself.
import { afterEach, expect, test } from "vitest";
import { StageFailure } from "../work/contract.ts";
import { stageKinds } from "./registry.ts";
import { createTestContext, type TestContextOptions } from "./testing.ts";
import { trialStage } from "./trial.ts";

const toRemove: (() => void)[] = [];
afterEach(() => {
  for (const remove of toRemove.splice(0)) remove();
});
const contextFor = (options: TestContextOptions) => {
  const made = createTestContext(options);
  toRemove.push(made.remove);
  return made.context;
};

test("waits as long as it is told", async () => {
  const began = performance.now();
  expect(await trialStage.run(contextFor({ params: { seconds: 0.2 } }))).toEqual({
    result: { seconds: 0.2 },
    outputs: [],
  });
  expect(performance.now() - began).toBeGreaterThanOrEqual(195);
});

test("fails with the class it is told; a class that there is none of is named", async () => {
  const failed = await trialStage.run(contextFor({ params: { fail: "gpu_oom" } })).catch((error: unknown) => error);
  expect(failed).toMatchObject({ failureClass: "gpu_oom" });
  const bad = await trialStage.run(contextFor({ params: { fail: "bad luck" } })).catch((error: unknown) => error);
  expect(bad).toBeInstanceOf(StageFailure);
  expect((bad as StageFailure).message).toContain("params.fail");
});

test("a stop ends it at once", async () => {
  const stop = new AbortController();
  const run = trialStage.run(contextFor({ params: { seconds: 600 }, signal: stop.signal }));
  setImmediate(() => stop.abort(new Error("cancelled")));
  await expect(run).rejects.toThrow();
});

test("no agent offers it without its setting", () => {
  expect(stageKinds({ ttsProvider: "espeak" }).map((stage) => stage.kind)).not.toContain("trial");
});
