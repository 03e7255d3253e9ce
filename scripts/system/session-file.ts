// One quickstart a folder. The file says which script runs there and which processes it keeps; when that script was killed
// without a chance to clean up, its processes are stopped before new ones start on the same folder.
import { readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { isSame, type ProcessIdentity, signalProcess, startOf } from "./process-identity.ts";

type Session = {
  readonly script: ProcessIdentity;
  readonly url: string;
  readonly processes: readonly ProcessIdentity[];
};

export class FolderInUse extends Error {
  override readonly name = "FolderInUse";
}

/** The same patience that a keeper has. */
const stopMs = 30_000;
const fileOf = (dataDir: string) => join(dataDir, "quickstart.json");

/** Throws FolderInUse when another quickstart runs here; stops what a dead one left. */
export const takeFolder = async (dataDir: string, say: (text: string) => void): Promise<void> => {
  const before = await readSession(dataDir);
  if (!before) return;
  if (await isSame(before.script))
    throw new FolderInUse(
      `Another quickstart runs on ${dataDir} (${before.url}). Stop it with Ctrl-C or: kill ${before.script.pid}. Or choose another folder with --data.`,
    );
  for (const left of before.processes) {
    if (!(await isSame(left))) continue;
    say(`Stopping process ${left.pid}, left by an earlier quickstart on this folder`);
    await signalProcess(left, "SIGTERM");
    const end = performance.now() + stopMs;
    while ((await isSame(left)) && performance.now() < end) await pause(50);
    await signalProcess(left, "SIGKILL");
  }
};

/** Called whenever a process was started, so that the file is never far behind. */
export const writeSession = async (dataDir: string, url: string, pids: readonly number[]): Promise<void> => {
  const processes: ProcessIdentity[] = [];
  for (const pid of pids) {
    const start = await startOf(pid);
    if (start !== undefined) processes.push({ pid, start });
  }
  const script = { pid: process.pid, start: (await startOf(process.pid)) ?? "" };
  const file = fileOf(dataDir);
  await writeFile(`${file}.new`, JSON.stringify({ script, url, processes } satisfies Session));
  await rename(`${file}.new`, file);
};

export const leaveFolder = (dataDir: string): Promise<void> => rm(fileOf(dataDir), { force: true });

const readSession = async (dataDir: string): Promise<Session | undefined> => {
  try {
    return JSON.parse(await readFile(fileOf(dataDir), "utf8")) as Session;
  } catch {
    return undefined;
  }
};
