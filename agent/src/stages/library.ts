// Finds pictures and clips for keywords in a folder of this host, by file name. It only chooses paths; the media stage copies
// and checks them. Links are not followed, so the folder cannot lead to files outside of it.
import { readdir } from "node:fs/promises";
import path from "node:path";

/** Files that are looked at; a larger library is searched as far as this, in the order of the folder. */
const maxListed = 20_000;

/** Absolute paths, the keywords in turn, at most `limit`; the same folder gives the same answer. */
export const searchLibrary = async (folder: string, keywords: readonly string[], limit: number): Promise<string[]> => {
  const files: string[] = [];
  for await (const file of filesUnder(folder)) {
    files.push(file);
    if (files.length >= maxListed) break;
  }
  files.sort();
  const hits = keywords.map((keyword) => files.filter((file) => matches(path.relative(folder, file), keyword)));
  const chosen = new Set<string>();
  const longest = Math.max(0, ...hits.map((list) => list.length));
  for (let round = 0; round < longest; round++)
    for (const list of hits) {
      const file = list[round];
      if (file !== undefined && chosen.size < limit) chosen.add(file);
    }
  return [...chosen];
};

async function* filesUnder(folder: string): AsyncGenerator<string> {
  const entries = await readdir(folder, { withFileTypes: true });
  for (const entry of entries) {
    const full = path.join(folder, entry.name);
    if (entry.isFile() && !entry.name.startsWith(".")) yield full;
    if (entry.isDirectory() && !entry.name.startsWith(".")) yield* filesUnder(full);
  }
}

/** Every word of the keyword begins a word of the name: "city night" finds "City_at_night-02.mp4", "art" not "party". */
const matches = (name: string, keyword: string): boolean => {
  const wordsOf = (text: string): string[] =>
    text
      .normalize("NFC")
      .toLowerCase()
      .match(/[\p{L}\p{N}]+/gu) ?? [];
  const words = wordsOf(name);
  const wanted = wordsOf(keyword);
  return wanted.length > 0 && wanted.every((want) => words.some((word) => word.startsWith(want)));
};
