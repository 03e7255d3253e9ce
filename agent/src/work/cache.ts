// Files of this host by their content: cache/<aa>/<sha256>, only whole and verified ones, made visible by rename or link.
// Saves a transfer when stages of one job meet on one host. Everything here can be lost: losing it costs a download.
// Keeps: at most limitBytes, least recently used first, with what is left of broken transfers; a file in use survives its removal
// because attempts hold hard links.
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { chmod, copyFile, link, readdir, rename, rm, stat, utimes } from "node:fs/promises";
import { dirname, join } from "node:path";
import { sha256Pattern } from "@renderplane/proto/kernel/limits.ts";

/** About 25 finished ten-minute videos with their inputs; less than a tenth of a usual scratch disk. */
export const defaultCacheBytes = 20 * 1024 ** 3;

/** A transfer gives up after a minute without a byte; what is older is nobody's. */
const idleDraftMs = 10 * 60_000;

export type ArtifactCache = {
  /** Path of the whole file, marked as used now; undefined when it is not here. With a size, one of another size is removed. */
  find(sha256: string, sizeBytes?: number): Promise<string | undefined>;
  /** Where to write a file that is not whole yet; one place for each digest, so that a transfer can go on. */
  draftPath(sha256: string): string;
  /** Takes a finished, verified draft in and answers with its path. */
  admit(sha256: string): Promise<string>;
  /** Shares a verified file of an attempt, without a copy. */
  share(sha256: string, path: string): Promise<void>;
  /** Removes these files where no attempt has a name of them; answers the bytes that the disk got back. */
  release(sha256s: readonly string[]): Promise<number>;
  /** Removes least recently used files until at most this many bytes are left. */
  shrink(toBytes?: number): Promise<void>;
};

/** `bootId`: after a reboot unsynced files may be hollow under a right name, so the cache starts empty. */
export const openCache = (dir: string, bootId: string, limitBytes = defaultCacheBytes): ArtifactCache => {
  const mark = join(dir, "boot");
  if (!existsSync(mark) || readFileSync(mark, "utf8") !== bootId) {
    rmSync(dir, { recursive: true, force: true });
    mkdirSync(join(dir, "partial"), { recursive: true, mode: 0o700 });
    writeFileSync(mark, bootId);
  }
  mkdirSync(join(dir, "partial"), { recursive: true, mode: 0o700 });
  const place = (sha256: string) => join(dir, sha256.slice(0, 2), sha256);
  const draft = (sha256: string) => join(dir, "partial", sha256);

  const shrink = async (toBytes = limitBytes): Promise<void> => {
    const files = await listFiles(dir);
    let total = files.reduce((sum, file) => sum + file.bytes, 0);
    for (const file of files.sort((a, b) => a.usedMs - b.usedMs)) {
      if (total <= toBytes) return;
      await rm(file.path, { force: true });
      total -= file.bytes;
    }
  };

  return {
    find: async (sha256, sizeBytes) => {
      const path = place(sha256);
      const facts = await stat(path).catch(() => undefined);
      if (facts === undefined) return undefined;
      // It shares its bytes with the attempt that made it, and an attempt that is done again writes its outputs again.
      if (sizeBytes !== undefined && facts.size !== sizeBytes) {
        await rm(path, { force: true });
        return undefined;
      }
      const now = new Date();
      await utimes(path, now, now).catch(() => {});
      return path;
    },
    draftPath: draft,
    admit: async (sha256) => {
      const path = place(sha256);
      mkdirSync(join(dir, sha256.slice(0, 2)), { recursive: true, mode: 0o700 });
      await chmod(draft(sha256), 0o444);
      await rename(draft(sha256), path);
      await shrink();
      return path;
    },
    share: async (sha256, path) => {
      if (existsSync(place(sha256))) return;
      mkdirSync(join(dir, sha256.slice(0, 2)), { recursive: true, mode: 0o700 });
      await linkOrCopy(path, place(sha256));
      await shrink();
    },
    release: async (sha256s) => {
      let freed = 0;
      for (const sha256 of new Set(sha256s)) {
        // A digest becomes a path: nothing else may.
        if (!sha256Pattern.test(sha256)) continue;
        const facts = await stat(place(sha256)).catch(() => undefined);
        // A second name is that of a live attempt (its folder goes when it ends): it wants the file, and no byte would come free.
        if (facts === undefined || facts.nlink > 1) continue;
        await rm(place(sha256), { force: true });
        freed += facts.size;
      }
      return freed;
    },
    shrink,
  };
};

/** One inode for both names; a copy where the file system has no links or the two are on different ones. */
export const linkOrCopy = async (from: string, to: string): Promise<void> => {
  try {
    await link(from, to);
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "EEXIST") return;
    await copyFile(from, `${to}.new`);
    await rename(`${to}.new`, to);
  }
};

/** Whole files, and drafts that nobody writes to any more. A name that is gone when it is looked at was evicted meanwhile. */
const listFiles = async (dir: string): Promise<{ path: string; bytes: number; usedMs: number }[]> => {
  const names = (await readdir(dir)).filter((name) => /^([0-9a-f]{2}|partial)$/.test(name));
  const paths = await Promise.all(
    names.map(async (name) => (await readdir(join(dir, name)).catch(() => [])).map((file) => join(dir, name, file))),
  );
  const files = await Promise.all(
    paths.flat().map(async (path) => {
      const facts = await stat(path).catch(() => undefined);
      return facts && { path, bytes: facts.size, usedMs: facts.mtimeMs };
    }),
  );
  const partial = join(dir, "partial");
  const isIdle = (file: { readonly path: string; readonly usedMs: number }) =>
    dirname(file.path) !== partial || Date.now() - file.usedMs > idleDraftMs;
  return files.filter((file) => file !== undefined).filter(isIdle);
};
