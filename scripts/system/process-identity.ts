// Tells a process from a later one with the same pid: the pid together with its start time. Nothing in scripts/ signals a pid
// that it did not start itself without comparing both.
import { readFile } from "node:fs/promises";

export type ProcessIdentity = { readonly pid: number; readonly start: string };

/** Start time in ticks since boot; undefined when there is no such process or it has ended and waits to be reaped. */
export const startOf = async (pid: number): Promise<string | undefined> => {
  const stat = await readFile(`/proc/${pid}/stat`, "utf8").catch(() => undefined);
  // The name in field 2 may hold blanks and brackets: count from its end. State is the next field, start time the 20th.
  const fields = stat?.slice(stat.lastIndexOf(")") + 2).split(" ");
  return fields?.[0] === "Z" ? undefined : fields?.[19];
};

export const isSame = async (process: ProcessIdentity): Promise<boolean> =>
  (await startOf(process.pid)) === process.start;

/** Sends the signal when it is still the same process. */
export const signalProcess = async (target: ProcessIdentity, signal: NodeJS.Signals): Promise<void> => {
  if (!(await isSame(target))) return;
  try {
    process.kill(target.pid, signal);
  } catch {
    // It ended in between.
  }
};
