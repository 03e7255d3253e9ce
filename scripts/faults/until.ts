// Waiting for something to come true, with a deadline. The one way in which faults and their tests wait.
import { setTimeout as pause } from "node:timers/promises";

const lookMs = 25;

/** Resolves with the milliseconds that it took. A look that throws is a look that says no: servers are away on purpose here. */
export const until = async (
  what: string,
  holds: () => boolean | Promise<boolean>,
  limitMs = 30_000,
  everyMs = lookMs,
): Promise<number> => {
  const began = performance.now();
  for (;;) {
    let last: unknown;
    try {
      if (await holds()) return performance.now() - began;
    } catch (error) {
      last = error;
    }
    if (performance.now() - began > limitMs)
      throw new Error(`not within ${Math.round(limitMs)} ms: ${what}`, { cause: last });
    await pause(everyMs);
  }
};
