// The waker against a real database: what becomes due rings, whichever way it waits.
import { afterAll, beforeAll, expect, test } from "vitest";
import { cancelJob } from "../operations/cancel-job.ts";
import { type Engine, openEngine } from "../testing/engine.ts";
import { createWaker } from "./waker.ts";

let engine: Engine;
beforeAll(async () => {
  engine = await openEngine();
});
afterAll(() => engine.close());

test("a stage that is ready again by its time alone wakes the placer at that time", async () => {
  await engine.submit();
  await engine.sql(
    `update stages set attempts = 1, run_at = clock_timestamp() + interval '100 milliseconds' where state = 'ready'`,
  );
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

test("[S145] a delayed retry survives a restart and is ready when its time comes; a cancelled job stays cancelled", async () => {
  const [kept, cancelled] = [await engine.submit(), await engine.submit()];
  const host = await engine.host("w1");
  for (const offer of await engine.offers(host)) {
    await engine.accept(host, offer);
    await engine.finish(host.hostId, offer, {
      outcome: "failed",
      failure: { failureClass: "network", severity: "low", message: "The connection broke." },
    });
  }
  const stateOf = async (id: string) => (await engine.detail(id)).stages.find((stage) => stage.name === "first")?.state;
  expect([await stateOf(kept), await stateOf(cancelled)]).toEqual(["waiting", "waiting"]);
  await cancelJob(engine.ctx, cancelled, "not wanted");
  // As a process that starts after the one that wrote the delay is gone: it knows only the rows.
  const waker = createWaker({ ...engine.ctx, replica: "main.00000002" });
  await waker.start();
  const end = performance.now() + 20_000;
  while ((await stateOf(kept)) === "waiting" && performance.now() < end)
    await new Promise((resolve) => setTimeout(resolve, 20));
  await waker.runOnce();
  await waker.stop();
  expect([await stateOf(kept), await stateOf(cancelled)]).toEqual(["ready", "cancelled"]);
  expect((await engine.detail(cancelled)).job.state).toBe("cancelled");
});
