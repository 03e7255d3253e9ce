// Ends what still runs for a stopped agent. An agent that stops leaves its programs running, so that a restart adopts them;
// a quickstart that stops for good must leave nothing behind. A step that is cut off here loses its folder, so the next start
// does it again from its beginning and nobody mistakes it for a failure.
import { readdir, readFile, realpath, rm } from "node:fs/promises";
import { isAbsolute, join, relative } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { type ProcessIdentity, signalProcess, startOf } from "./process-identity.ts";

/** Killed processes that hang in the kernel longer than this are left to it. */
const goneMs = 5_000;
const lookMs = 20;

type Leftover = ProcessIdentity & { readonly stepDir: string | undefined };

/** Ends every process that carries the mark of an attempt (the path of its folder) of this agent. */
export const endLeftovers = async (agentDir: string): Promise<number> => {
  const folder = await realpath(agentDir).catch(() => undefined);
  if (folder === undefined) return 0;
  const ended = new Set<string>();
  const end = performance.now() + goneMs;
  // A shim may start its program between two looks, and a killed process takes a moment to go: look until there is none.
  for (let found = await findLeftovers(folder); found.length > 0; found = await findLeftovers(folder)) {
    if (performance.now() > end) break;
    // Shims first: they would write an exit for the program that ends under them.
    const shims = found.filter((leftover) => leftover.stepDir !== undefined);
    for (const leftover of [...shims, ...found.filter((l) => l.stepDir === undefined)]) {
      ended.add(`${leftover.pid} ${leftover.start}`);
      await signalProcess(leftover, "SIGKILL");
    }
    for (const { stepDir } of shims)
      if (stepDir !== undefined && isInside(stepDir, join(folder, "attempts")))
        await rm(stepDir, { recursive: true, force: true });
    await pause(lookMs);
  }
  return ended.size;
};

const findLeftovers = async (folder: string): Promise<Leftover[]> => {
  const found: Leftover[] = [];
  for (const name of await readdir("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    const env = await readFile(`/proc/${name}/environ`, "utf8").catch(() => "");
    const mark = /(?:^|\0)RENDERPLANE_ATTEMPT=([^\0]*)/.exec(env)?.[1];
    if (mark === undefined || !isInside(mark, folder)) continue;
    const start = await startOf(Number(name));
    if (start === undefined) continue;
    const words = (await readFile(`/proc/${name}/cmdline`, "utf8").catch(() => "")).split("\0");
    const stepDir = words[1]?.endsWith("/step-shim.sh") ? words[2] : undefined;
    found.push({ pid: Number(name), start, stepDir });
  }
  return found;
};

const isInside = (path: string, folder: string): boolean => {
  const way = relative(folder, path);
  return isAbsolute(path) && way !== ".." && !way.startsWith("../");
};
