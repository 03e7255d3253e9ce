// Start and stop of a whole control plane: everything it started is gone afterwards, and everything it knew is there again.
import { spawnSync } from "node:child_process";
import { afterEach, beforeEach, expect, test } from "vitest";
import { type Fleet, openFleet } from "./fleet.ts";

let fleet: Fleet;
beforeEach(async () => {
  fleet = await openFleet();
});
afterEach(() => fleet.stop());

const postgresOf = (): string => spawnSync("pgrep", ["-f", fleet.dir], { encoding: "utf8" }).stdout.trim();

test("[S149] starting makes everything ready, stopping ends everything that was started, and nothing is lost", {
  timeout: 60_000,
}, async () => {
  await fleet.startControlPlane();
  const id = await fleet.submit({ request: { script: "Kept." } });
  expect(postgresOf()).not.toBe("");
  expect(await fleet.terminate("control-plane")).toBe(0);
  expect(postgresOf()).toBe("");
  await expect(fetch(`${fleet.url}/healthz`)).rejects.toThrow();
  await fleet.startControlPlane();
  expect((await fleet.job(id)).state).toBe("queued");
});

test("a second control plane on the same folder is refused with a sentence, and the first goes on", {
  timeout: 60_000,
}, async () => {
  await fleet.startControlPlane();
  const second = await fleet.startSecond();
  expect(second.code).toBe(2);
  expect(second.stderr).toMatch(/in use|another control plane/i);
  expect((await fleet.api("GET", "/readyz")).status).toBe(200);
});
