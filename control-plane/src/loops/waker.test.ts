// The waker against a real database: what becomes due rings, whichever way it waits.
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Engine, openEngine } from "../testing/engine.ts";
import { createWaker } from "./waker.ts";

let engine: Engine;
beforeAll(async () => {
  engine = await openEngine();
});
afterAll(() => engine.close());

test("a stage that is ready again by its time alone wakes the placer at that time", async () => {
  await engine.submit();
  await engine.sql(`update stages set run_at = clock_timestamp() + interval '100 milliseconds' where state = 'ready'`);
  const isDue = async () =>
    (await engine.sql(`select 1 from stages where state = 'ready' and run_at <= clock_timestamp()`)).length > 0;
  const rung = new Promise<boolean>((resolve) => {
    engine.ctx.bus.on("ready", () => void isDue().then(resolve));
  });
  const waker = createWaker(engine.ctx);
  await waker.start();
  const late = new Promise<string>((resolve) => setTimeout(() => resolve("no bell in 3 s"), 3_000).unref());
  expect(await Promise.race([rung, late])).toBe(true);
  await waker.stop();
});
