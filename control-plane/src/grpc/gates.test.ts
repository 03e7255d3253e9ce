// The two gates of the edge: how many may arrive in a second, and how often progress is passed on.
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { expect, test } from "vitest";
import { createGate } from "./admission.ts";
import { createProgressGate } from "./progress-gate.ts";

test("a second's worth is admitted at once, the next is sent away for 1 to 10 s, and time opens the gate again", () => {
  let now = 0;
  const admit = createGate(3, "sessions", () => now);
  for (let n = 0; n < 3; n++) admit();
  const refused = () => {
    try {
      admit();
      return undefined;
    } catch (error) {
      return error as RenderplaneError;
    }
  };
  expect(refused()).toMatchObject({ code: "unavailable" });
  expect(refused()?.retryAfterMs).toBeGreaterThanOrEqual(1000);
  expect(refused()?.retryAfterMs).toBeLessThanOrEqual(10_000);
  now += 334;
  admit();
  expect(refused()).toBeInstanceOf(RenderplaneError);
  now += 60_000;
  for (let n = 0; n < 3; n++) admit();
  expect(refused()).toBeInstanceOf(RenderplaneError);
});

test("the first progress passes at once, then the newest of each attempt when its time has come", () => {
  let now = 0;
  const published: string[] = [];
  const gate = createProgressGate<string>({ intervalMs: 500, publish: (p) => published.push(p), now: () => now });
  gate.offer("a", "a1");
  gate.offer("a", "a2");
  gate.offer("a", "a3");
  gate.offer("b", "b1");
  expect(published).toEqual(["a1", "b1"]);
  gate.flush();
  now = 500;
  gate.flush();
  gate.flush();
  expect(published).toEqual(["a1", "b1", "a3"]);
});
