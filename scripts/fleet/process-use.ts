// CPU and memory of a process of this machine, from /proc: what the kernel counted, not what the process believes.
import { readFile } from "node:fs/promises";

/** USER_HZ, fixed on every Linux that Node supports. */
const ticksPerSecond = 100;

export type ProcessUse = { readonly cpuSeconds: number; readonly rssBytes: number; readonly atMs: number };

/** Zero for a process that is gone. */
export const useOf = async (pid: number): Promise<ProcessUse> => {
  const atMs = performance.now();
  const [stat, status] = await Promise.all(
    ["stat", "status"].map((name) => readFile(`/proc/${pid}/${name}`, "utf8").catch(() => "")),
  );
  // utime and stime are fields 14 and 15; the name in field 2 may hold blanks.
  const fields = (stat ?? "").slice((stat ?? "").lastIndexOf(")") + 2).split(" ");
  const cpuSeconds = (Number(fields[11] ?? 0) + Number(fields[12] ?? 0)) / ticksPerSecond;
  const rssBytes = Number(/VmRSS:\s+(\d+) kB/.exec(status ?? "")?.[1] ?? 0) * 1024;
  return { cpuSeconds, rssBytes, atMs };
};

/** Percent of one core between two readings. */
export const coreShare = (before: ProcessUse, after: ProcessUse): number =>
  ((after.cpuSeconds - before.cpuSeconds) / Math.max(0.001, (after.atMs - before.atMs) / 1000)) * 100;
