// The trivial stage is one real process; a stop ends it and bad parameters are named.
import { afterEach, expect, test } from "vitest";
import { StageFailure } from "../work/contract.ts";
import { noopStage } from "./noop.ts";
import { createTestContext, type TestContextOptions } from "./testing.ts";

const toRemove: (() => void)[] = [];
afterEach(() => {
  for (const remove of toRemove.splice(0)) remove();
});
const contextFor = (options: TestContextOptions) => {
  const made = createTestContext(options);
  toRemove.push(made.remove);
  return made;
};

test("runs one FFmpeg process and makes nothing", async () => {
  const made = contextFor({});
  expect(await noopStage.run(made.context)).toEqual({ result: { seconds: 0 }, outputs: [] });
  expect(made.steps.map((step) => [step.name, step.end.exitCode])).toEqual([["noop", 0]]);
});

test("lasts as long as it is told", async () => {
  const made = contextFor({ params: { seconds: 1 } });
  await noopStage.run(made.context);
  expect(made.steps[0]?.end.elapsedMs).toBeGreaterThan(700);
});

test("a stop ends it at once with the reason of the stop", async () => {
  const stop = new AbortController();
  const made = contextFor({ params: { seconds: 600 }, signal: stop.signal });
  const run = noopStage.run(made.context);
  const reason = new Error("cancelled");
  setImmediate(() => stop.abort(reason));
  await expect(run).rejects.toBe(reason);
});

test("FFmpeg missing and bad parameters have their classes", async () => {
  const missing = contextFor({ programs: { ffmpeg: "/nonexistent/ffmpeg" } });
  await expect(noopStage.run(missing.context)).rejects.toMatchObject({ failureClass: "missing_program" });
  const bad = await noopStage.run(contextFor({ params: { seconds: "long" } }).context).catch((error: unknown) => error);
  expect(bad).toBeInstanceOf(StageFailure);
  expect((bad as StageFailure).message).toContain("params.seconds");
});
