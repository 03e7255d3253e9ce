// Empties this host before the agent goes: nothing new is taken, what runs may end within its time, the rest is given back, and the
// last ends get a moment to be answered. Heartbeats go on meanwhile; whoever stops them declares this host lost.
import { setTimeout as pause } from "node:timers/promises";
import type { Logger } from "@renderplane/proto/kernel/process/logger.ts";
import type { Entry } from "./entry.ts";

const lookMs = 50;
/** For the last ends to be answered. Without a way to the control plane they wait in the journal anyway. */
export const flushMs = 2_000;

export const drain = async (options: {
  readonly entries: ReadonlyMap<string, Entry>;
  readonly limitMs: number;
  /** From the order to give back until a program is surely gone. */
  readonly giveBackMs: number;
  readonly giveBack: (entry: Entry) => void;
  readonly log: Logger;
}): Promise<void> => {
  const { entries, log } = options;
  const working = () => [...entries.values()].filter((entry) => entry.state !== "ended");
  const until = async (isTrue: () => boolean, limitMs: number) => {
    const deadline = performance.now() + limitMs;
    while (!isTrue() && performance.now() < deadline) await pause(lookMs);
    return isTrue();
  };
  log.info({ held: entries.size, limit_ms: options.limitMs }, "draining");
  if (!(await until(() => working().length === 0, options.limitMs))) {
    const left = working();
    log.warn(
      { attempts: left.map((entry) => entry.offer.attemptId) },
      "the drain's time is up, the rest is given back",
    );
    for (const entry of left) options.giveBack(entry);
    await until(() => working().length === 0, options.giveBackMs);
  }
  await until(() => entries.size === 0, flushMs);
  log.info({ unacknowledged: entries.size }, "drained");
};
