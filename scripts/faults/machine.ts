// What this machine lets a test do to it: a wall clock of one's own, a small file system. Each is tried once before a case relies on
// it; a machine without it leaves the case out and says why.
import { execFile } from "node:child_process";
import { access, mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";

const run = promisify(execFile);

const fakeClockLibraries = [
  "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
  "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
];

/** Settings that move the wall clock of a process and of what it starts; the monotonic clock stays true. */
export const fakeClock = async (offset: string): Promise<NodeJS.ProcessEnv> => ({
  LD_PRELOAD: await fakeClockLibrary(),
  FAKETIME: offset,
  FAKETIME_DONT_FAKE_MONOTONIC: "1",
});

export const cannotFakeClock = (): Promise<string | undefined> =>
  fakeClockLibrary().then(
    () => undefined,
    () => "the package faketime is not installed",
  );

const fakeClockLibrary = async (): Promise<string> => {
  for (const path of fakeClockLibraries)
    if (
      await access(path).then(
        () => true,
        () => false,
      )
    )
      return path;
  throw new Error("no libfaketime");
};

export type SmallDisk = { unmount(): Promise<void> };

/** A file system of so many bytes at this folder. */
export const mountSmallDisk = async (folder: string, bytes: number): Promise<SmallDisk> => {
  await mkdir(folder, { recursive: true });
  await run("mount", ["-t", "tmpfs", "-o", `size=${bytes}`, "renderplane-faults", folder]);
  return { unmount: async () => void (await run("umount", ["-l", folder])) };
};

export const cannotMount = async (): Promise<string | undefined> => {
  const folder = await mkdtemp(join(tmpdir(), "renderplane-mount-"));
  try {
    await (await mountSmallDisk(folder, 1024 * 1024)).unmount();
    return undefined;
  } catch {
    return "a tmpfs cannot be mounted (needs root)";
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
};
