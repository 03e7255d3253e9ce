// Removal of stored files that no row names any more, in the folder of artifacts. Rows and files cannot change in one transaction, so the
// file itself remembers when it was last stored or asked for: its time of change. Invariant: a size that was answered holds for an
// hour; whoever names the file within that time finds it. Which files no row names is the caller's to say.
import { readdir, rename, rm, stat, utimes } from "node:fs/promises";
import { join } from "node:path";
import { sha256Pattern } from "@renderplane/proto/kernel/limits.ts";

/** Asked again within this, the time is not written again: it is far below the hour that removal leaves. */
const touchMs = 10 * 60_000;
/** A file that is on its way out; it comes back when somebody asked for it at the last moment. */
const leaving = ".leaving";

/** Undefined when the file is not there. */
export const askSize = async (path: string): Promise<number | undefined> => {
  const found = await stat(path).catch(() => undefined);
  if (!found || Date.now() - found.mtimeMs < touchMs) return found?.size;
  const now = new Date();
  try {
    await utimes(path, now, now);
    return found.size;
  } catch (error) {
    // It is being removed at this moment: it must be stored again.
    if (isGone(error)) return undefined;
    throw error;
  }
};

/** Moves the file aside before it looks at its time: what is asked for after that is not there. */
export const removeIdle = async (path: string, idleMs: number): Promise<boolean> => {
  const aside = `${path}${leaving}`;
  try {
    await rename(path, aside);
    if (Date.now() - (await stat(aside)).mtimeMs >= idleMs) {
      await rm(aside, { force: true });
      return true;
    }
    await rename(aside, path);
    return false;
  } catch (error) {
    if (isGone(error)) return false;
    throw error;
  }
};

/** In the order of the folders; a file that a dead process left aside is put back and judged at the next walk. */
export const listIdle = async function* (folder: string, idleMs: number): AsyncGenerator<string> {
  const parts = (await readdir(folder)).filter((name) => /^[0-9a-f]{2}$/.test(name)).sort();
  for (const part of parts)
    for (const name of await readdir(join(folder, part))) {
      const path = join(folder, part, name);
      if (name.endsWith(leaving)) await putBack(path, Math.min(touchMs, idleMs));
      else if (sha256Pattern.test(name) && (await idleFor(path)) >= idleMs) yield name;
    }
};

const putBack = async (aside: string, restMs: number): Promise<void> => {
  const path = aside.slice(0, -leaving.length);
  const since = await idleFor(aside);
  // Younger: another control plane may be at it.
  if (since < restMs) return;
  await rename(aside, path).catch((error: unknown) => {
    if (!isGone(error)) throw error;
  });
};

const idleFor = async (path: string): Promise<number> => {
  const found = await stat(path).catch(() => undefined);
  // Renaming changes ctime: what was moved aside a moment ago counts as in use.
  return found === undefined ? 0 : Date.now() - (path.endsWith(leaving) ? found.ctimeMs : found.mtimeMs);
};

const isGone = (error: unknown): boolean => error instanceof Error && "code" in error && error.code === "ENOENT";
