// Puts the machine's parts together as work/ wants them: clock, boot, disk, steps, and the marker that every process of an
// attempt carries in its environment. The marker finds what left its session, and what has no journal any more.
import { setTimeout as pause } from "node:timers/promises";
import { hostDisk } from "./disk.ts";
import { bootClockMs, markedProcesses, readBootId, signalProcess } from "./proc.ts";
import { markerName, runStep } from "./process.ts";

/** A killed process is gone within milliseconds; one in uninterruptible sleep is left to the kernel after this many rounds. */
const maxRounds = 50;
const roundMs = 10;

export const createHost = () => ({
  bootId: readBootId(),
  nowMs: bootClockMs,
  disk: hostDisk(),
  runStep,
  endMarked: async (attemptRoot: string): Promise<number> => {
    let ended = 0;
    for (let round = 0; round < maxRounds; round++) {
      const left = markedProcesses(markerName, attemptRoot).filter((found) => found.value === attemptRoot);
      if (left.length === 0) break;
      for (const { identity } of left) if (signalProcess(identity, "SIGKILL", identity.boot)) ended += 1;
      await pause(roundMs);
    }
    return ended;
  },
  endStrangers: (attemptsRoot: string, known: ReadonlySet<string>): string[] => {
    const strangers = markedProcesses(markerName, `${attemptsRoot}/`).filter((found) => !known.has(found.value));
    for (const { identity } of strangers) signalProcess(identity, "SIGKILL", identity.boot);
    return strangers.map((found) => found.value);
  },
});
