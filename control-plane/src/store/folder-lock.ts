// One process at a time on one folder. The lock is flock(2) on a file in it, so the kernel releases it however the process
// ends, kill -9 too, and it holds between containers that share the folder. The pid in the file is for the message only.
// Node has no flock; the lock belongs to the open file, so flock(1) takes it on a descriptor that it inherits from here.
import { spawnSync } from "node:child_process";
import { closeSync, ftruncateSync, openSync, readFileSync, statSync, writeSync } from "node:fs";
import { join } from "node:path";
import { ConfigError } from "@renderplane/proto/kernel/process/environment.ts";

export type FolderLock = { release(): void };

/** Throws ConfigError when another process holds the folder. Release is idempotent. */
export const lockFolder = (folder: string): FolderLock => {
  const path = join(folder, "lock");
  // "a+": not truncated, so the holder's pid stays readable for the one that is refused.
  const file = openLockFile(path, folder);
  const taken = spawnSync("flock", ["--nonblock", "3"], {
    stdio: ["ignore", "ignore", "pipe", file],
    encoding: "utf8",
  });
  if (taken.error || taken.status !== 0) {
    closeSync(file);
    if (taken.error)
      throw new ConfigError(`flock cannot be run (${taken.error.message}); install util-linux, or set DATABASE_URL.`);
    throw new ConfigError(
      `The folder ${folder} is in use by process ${readFileSync(path, "utf8").trim() || "(unknown)"}. Stop that one first, or give this one its own data folder.`,
    );
  }
  ftruncateSync(file);
  writeSync(file, `${process.pid}\n`);
  let isHeld = true;
  return {
    release: () => {
      if (isHeld) closeSync(file);
      isHeld = false;
    },
  };
};

const openLockFile = (path: string, folder: string): number => {
  try {
    return openSync(path, "a+", 0o600);
  } catch (error) {
    const { uid } = statSync(folder);
    throw new ConfigError(
      `The folder ${folder} belongs to uid ${uid} and cannot be written by uid ${process.getuid?.()}. Start as the user that started it first, or choose another data folder.`,
      { cause: error },
    );
  }
};
