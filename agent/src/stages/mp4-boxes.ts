// Reads the top-level boxes of an MP4 file: is the index (moov) in front of the pictures (mdat), so that playing can start
// before the file is here? A few headers are read, never the content; a file that is no MP4 has no boxes and no index.
import { open } from "node:fs/promises";

/** A file of ours has five; something with more is not asked further. */
const maxBoxes = 64;

/** Types in file order, e.g. ["ftyp", "moov", "free", "mdat"]; stops at the first header that makes no sense. */
export const topLevelBoxes = async (file: string): Promise<string[]> => {
  const handle = await open(file, "r");
  try {
    const { size } = await handle.stat();
    const header = Buffer.alloc(16);
    const boxes: string[] = [];
    for (let at = 0; at + 8 <= size && boxes.length < maxBoxes; ) {
      const { bytesRead } = await handle.read(header, 0, 16, at);
      const type = header.toString("latin1", 4, 8);
      if (!/^[\x20-\x7e]{4}$/.test(type)) break;
      // 1: a 64-bit size follows; 0: the box goes on to the end of the file.
      const short = header.readUInt32BE(0);
      const length =
        short === 1 && bytesRead === 16 ? Number(header.readBigUInt64BE(8)) : short === 0 ? size - at : short;
      if (length < 8) break;
      boxes.push(type);
      at += length;
    }
    return boxes;
  } finally {
    await handle.close();
  }
};

export const isFastStart = async (file: string): Promise<boolean> => {
  const boxes = await topLevelBoxes(file);
  const [moov, mdat] = [boxes.indexOf("moov"), boxes.indexOf("mdat")];
  return moov >= 0 && mdat >= 0 && moov < mdat;
};
