// Ends what still runs for a stopped agent. An agent that stops leaves its programs running, so that a restart adopts them;
// a quickstart that stops for good must leave nothing behind. A step that is cut off here loses its folder, so the next start
// does it again from its beginning and nobody mistakes it for a failure.
import { readdir, readFile, realpath, rm } from "node:fs/promises";
import { isAbsolute, join, relative } from "node:path";
import { type ProcessIdentity, signalProcess, startOf } from "./process-identity.ts";

type Leftover = ProcessIdentity & { readonly stepDir: string | undefined };

/** Ends every process that carries the mark of an attempt (the path of its folder) of this agent. */
export const endLeftovers = async (agentDir: string): Promise<number> => {
  const folder = await realpath(agentDir).catch(() => undefined);
  if (folder === undefined) return 0;
  let ended = 0;
  // A shim may start its program between two looks; a second look finds it.
  for (let round = 0; round < 5; round++) {
    const found = await findLeftovers(folder);
    if (found.length === 0) break;
    ended += found.length;
    // Shims first: they would write an exit for the program that ends under them.
    const shims = found.filter((leftover) => leftover.stepDir !== undefined);
    for (const leftover of [...shims, ...found.filter((l) => l.stepDir === undefined)])
      await signalProcess(leftover, "SIGKILL");
    for (const { stepDir } of shims)
      if (stepDir !== undefined && isInside(stepDir, join(folder, "attempts")))
        await rm(stepDir, { recursive: true, force: true });
  }
  return ended;
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
