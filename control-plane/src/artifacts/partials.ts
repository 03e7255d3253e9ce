// Uploads on their way, in a folder that several control planes may share: every process writes only files of its own,
// <sha256>.<writer>, and continues what another one received by copying its first bytes. So nobody ever writes into a file that
// somebody else hashes, and no lock is needed that a killed process could leave behind.
// Invariant: a file here only grows, from its first byte on, so whatever size it is seen with is received.
import { randomBytes } from "node:crypto";
import { createReadStream, createWriteStream } from "node:fs";
import { mkdir, readdir, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";

/** An upload that nobody has continued for this long is removed at the next start; no signed address lives so long. */
const abandonedMs = 24 * 60 * 60_000;
/** A stream of unknown digest cannot be continued; a socket that is silent for two minutes is closed, so this one has no writer. */
const silentMs = 10 * 60_000;
/** Written to within this: its writer is at it. */
const liveMs = 3_000;
const ingestPrefix = "ingest-";

export type Partials = {
  /** Where this process writes the digest. */
  own(sha256: string): string;
  /** A name for bytes of unknown digest. */
  fresh(): string;
  /** The most that anybody has received. */
  received(sha256: string): Promise<number>;
  /** True when own(sha256) now holds exactly the first `from` bytes and is the place to go on. */
  continueAt(sha256: string, from: number): Promise<boolean>;
  /** Removes what everybody received of it. */
  clear(sha256: string): Promise<void>;
};

export const openPartials = async (
  folder: string,
  writer: string = randomBytes(6).toString("hex"),
): Promise<Partials> => {
  await mkdir(folder, { recursive: true, mode: 0o700 });
  await removeAbandoned(folder);
  const own = (sha256: string): string => join(folder, `${sha256}.${writer}`);
  const all = async (sha256: string): Promise<Part[]> => {
    // An earlier version wrote the bare digest.
    const names = (await readdir(folder)).filter((name) => name === sha256 || name.startsWith(`${sha256}.`));
    const parts = await Promise.all(names.map((name) => partAt(join(folder, name))));
    return parts.filter((part) => part !== undefined).sort((a, b) => b.size - a.size);
  };
  return {
    own,
    fresh: () => join(folder, ingestPrefix + randomBytes(12).toString("hex")),
    received: async (sha256) => (await all(sha256))[0]?.size ?? 0,
    continueAt: async (sha256, from) => {
      const parts = await all(sha256);
      const most = parts[0]?.size ?? 0;
      const mine = parts.find((part) => part.path === own(sha256))?.size ?? 0;
      // While somebody else writes, the largest moves on before an answer about it is back; what was received stays received.
      const isMoving = parts[0] !== undefined && parts[0].path !== own(sha256) && parts[0].isLive;
      if (from !== most && !(isMoving && from >= mine && from < most)) return false;
      if (from === mine) return true;
      const donor = parts.find((part) => part.size >= from);
      if (donor === undefined) return false;
      await pipeline(
        createReadStream(donor.path, { end: from - 1 }),
        createWriteStream(own(sha256), { mode: 0o600, flags: "w" }),
      );
      return true;
    },
    clear: async (sha256) => {
      for (const part of await all(sha256)) await rm(part.path, { force: true });
    },
  };
};

type Part = { readonly path: string; readonly size: number; readonly isLive: boolean };
const partAt = async (path: string): Promise<Part | undefined> => {
  const found = await stat(path).catch(() => undefined);
  return found && { path, size: found.size, isLive: Date.now() - found.mtimeMs < liveMs };
};

/** Other control planes may be writing here, so only what nobody has touched for long. */
const removeAbandoned = async (folder: string): Promise<void> => {
  for (const name of await readdir(folder)) {
    const path = join(folder, name);
    const found = await stat(path).catch(() => undefined);
    const limitMs = name.startsWith(ingestPrefix) ? silentMs : abandonedMs;
    if (found && Date.now() - found.mtimeMs > limitMs) await rm(path, { force: true });
  }
};
