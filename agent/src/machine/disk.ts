// Files that must survive: a durable write is tmp + fsync + rename + fsync of the folder, so a reader sees the old text or
// the whole new one, also after a power cut. Free space is asked here too. Injected, so that a test can fill the disk.
import { closeSync, fsyncSync, mkdirSync, openSync, renameSync, rmSync, writeSync } from "node:fs";
import { statfs } from "node:fs/promises";
import { dirname } from "node:path";

export const hostDisk = (): {
  writeDurable(path: string, text: string): void;
  syncFolder(folder: string): void;
  freeBytes(folder: string): Promise<number>;
} => ({
  writeDurable: (path, text) => {
    const folder = dirname(path);
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    const draft = `${path}.new`;
    try {
      writeAndSync(draft, text);
      renameSync(draft, path);
    } catch (error) {
      rmSync(draft, { force: true });
      throw error;
    }
    syncFolder(folder);
  },
  syncFolder,
  freeBytes: async (folder) => {
    const facts = await statfs(folder);
    return facts.bavail * facts.bsize;
  },
});

const syncFolder = (folder: string): void => {
  const descriptor = openSync(folder, "r");
  try {
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
};

const writeAndSync = (path: string, text: string): void => {
  const descriptor = openSync(path, "w", 0o600);
  try {
    const bytes = Buffer.from(text);
    for (let written = 0; written < bytes.length; ) written += writeSync(descriptor, bytes, written);
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
};
