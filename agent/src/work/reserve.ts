// A file that only holds space: on a full disk it is given up so that the end of an attempt can still be written. Without it a
// result that took an hour would live in memory alone until the control plane answers.
// Keeps: it is taken again as soon as there is room; a disk that never has room for it costs a warning, not the agent.
import { randomBytes } from "node:crypto";
import { closeSync, fsyncSync, openSync, renameSync, rmSync, statSync, writeSync } from "node:fs";
import { join } from "node:path";
import type { Logger } from "@renderplane/proto/kernel/process/logger.ts";

/** The largest end that is sent is 256 KiB; as a record, with its second form for people, less than three times that. */
const reserveBytes = 1024 * 1024;
/** A process that mostly waits keeps what it once took: not the whole file at once. */
const pieceBytes = 16 * 1024;

export type Reserve = {
  /** Takes the space unless it is held already. */
  hold(): void;
  release(): void;
};

export const createReserve = (agentDir: string, log: Logger): Reserve => {
  const path = join(agentDir, "reserve");
  const isHeld = () => statSync(path, { throwIfNoEntry: false })?.size === reserveBytes;
  return {
    hold: () => {
      if (isHeld()) return;
      try {
        write(`${path}.new`);
        renameSync(`${path}.new`, path);
      } catch (error) {
        rmSync(`${path}.new`, { force: true });
        log.warn({ err: error }, "no space can be kept back for the journal; free space on this host's scratch disk");
      }
    },
    release: () => rmSync(path, { force: true }),
  };
};

/** Random bytes: a file system that compresses would give away the room of zeros. */
const write = (path: string): void => {
  const descriptor = openSync(path, "w", 0o600);
  try {
    const bytes = randomBytes(pieceBytes);
    for (let written = 0; written < reserveBytes; )
      written += writeSync(descriptor, bytes, 0, Math.min(pieceBytes, reserveBytes - written));
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
};
