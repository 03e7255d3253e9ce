// Gives a file of the work folder a second name. A hard link where the file system can, because scenes and videos are large;
// a copy where it cannot. Safe to repeat: a stage that is replayed finds its own file and leaves it.
import { constants, copyFile, link } from "node:fs/promises";

export const placeFile = async (from: string, to: string): Promise<void> => {
  await link(from, to).catch(async (error: NodeJS.ErrnoException) => {
    if (error.code === "EEXIST") return;
    await copyFile(from, to, constants.COPYFILE_FICLONE);
  });
};
