// When the agent comes back: a table of what happened and the longest wait that may follow.
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { createComeback, defaultPace, heartbeatPeriodMs, moveDelayMs, pause, retryDelayMs } from "./pace.ts";

const away = new RenderplaneError("unavailable", "away");

describe("the wait before the next session", () => {
  test.each([
    ["after a stream that lived", away, 0, 1000],
    ["after the first failure", away, 1, 1000],
    ["after the third", away, 3, 4000],
    ["never more than the cap", away, 40, 15_000],
    ["after an end on purpose", undefined, 0, 1000],
    ["superseded comes back like a failure", new RenderplaneError("superseded", "newer"), 2, 2000],
  ] as const)("%s: at most %4$d ms, spread from 0", (_, error, failures, longest) => {
    expect(retryDelayMs(error, failures, defaultPace, 1)).toBe(longest);
    expect(retryDelayMs(error, failures, defaultPace, 0)).toBe(0);
  });

  test.each(["certificate_refused", "protocol_unsupported", "forbidden", "invalid_request"] as const)(
    "%s needs a person: once a minute",
    (code) => {
      expect(retryDelayMs(new RenderplaneError(code, "refused"), 0, defaultPace, 0)).toBe(60_000);
    },
  );

  test("what the control plane asks for wins over everything", () => {
    const error = new RenderplaneError("certificate_refused", "later", { retryAfterMs: 7 });
    expect(retryDelayMs(error, 9, defaultPace)).toBe(7);
  });

  test("what the control plane asks for is bounded: a mistake there must not park a fleet, nor make a timer overflow", () => {
    const error = new RenderplaneError("unavailable", "later", { retryAfterMs: 1e12 });
    expect(retryDelayMs(error, 0, defaultPace)).toBe(300_000);
  });

  test("a fleet whose streams all lived and all broke comes back over a whole second", () => {
    const comeback = createComeback(defaultPace, () => 1);
    expect(comeback({ error: away, livedMs: 60_000 })).toBe(1000);
    expect([1, 2, 3].map(() => comeback({ error: away, livedMs: 5 }))).toEqual([1000, 2000, 4000]);
    expect(comeback({ error: away, livedMs: 60_000 })).toBe(1000);
  });

  test("with several addresses the waits grow by the round", () => {
    const comeback = createComeback(defaultPace, () => 1);
    const waits = [1, 2, 3, 4, 5, 6].map(() => comeback({ error: away, livedMs: 5, choices: 3 }));
    expect(waits).toEqual([1000, 1000, 1000, 2000, 2000, 2000]);
  });

  test("a move is spread over the time it names, within bounds", () => {
    expect(moveDelayMs(8_000, 0.5)).toBe(4_000);
    expect(moveDelayMs(2_147_483_647, 1)).toBe(60_000);
    expect(moveDelayMs(-1, 1)).toBe(0);
  });

  test("is a finite number within the cap for any history", () => {
    fc.assert(
      fc.property(fc.nat(), fc.double({ min: 0, max: 1, noNaN: true }), (failures, random) => {
        const wait = retryDelayMs(away, failures, defaultPace, random);
        expect(wait >= 0 && wait <= defaultPace.backoffCapMs).toBe(true);
      }),
    );
  });
});

test.each([
  [0, 5_000],
  [-1, 5_000],
  [1, 20],
  [200, 200],
  [2_147_483_647, 60_000],
])("asked to beat every %d ms, the agent beats every %d ms", (asked, used) => {
  expect(heartbeatPeriodMs(asked)).toBe(used);
});

test("a pause ends at once when it is told to stop", async () => {
  const stop = new AbortController();
  const waiting = pause(60_000, stop.signal);
  stop.abort();
  await waiting;
  await pause(60_000, stop.signal);
});
