// Removal of stored files meets those who ask for them: what was asked for stays, what nobody asked for goes, and a process that dies
// in the middle loses nothing.
import { mkdtemp, rename, rm, utimes } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import type { ArtifactStore } from "./artifact-store.ts";
import { openArtifactFolder } from "./folder.ts";

const hourMs = 60 * 60_000;
let folder: string;
let store: ArtifactStore;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "renderplane-unnamed-"));
  store = await openArtifactFolder(folder);
});
afterEach(() => rm(folder, { recursive: true, force: true }));

const pathOf = (sha256: string) => join(folder, sha256.slice(0, 2), sha256);
/** Stored so long ago, and not asked for since. */
const stored = async (text: string, agoMs: number): Promise<string> => {
  const { sha256 } = await store.ingest(
    (async function* () {
      yield Buffer.from(text);
    })(),
    100,
  );
  const at = new Date(Date.now() - agoMs);
  await utimes(pathOf(sha256), at, at);
  return sha256;
};
const idle = async (ms: number): Promise<string[]> => {
  const found: string[] = [];
  for await (const sha256 of store.idle(ms)) found.push(sha256);
  return found.sort();
};

test("only what nobody stored or asked for lately is idle, and only that is removed", async () => {
  const [old, young, asked] = [
    await stored("old", 48 * hourMs),
    await stored("young", 1_000),
    await stored("asked", 48 * hourMs),
  ];
  expect(await idle(24 * hourMs)).toEqual([old, asked].sort());
  expect(await store.size(asked)).toBe(5);
  expect(await idle(24 * hourMs)).toEqual([old]);
  expect(await Promise.all([old, young, asked].map((sha256) => store.remove(sha256, hourMs)))).toEqual([
    true,
    false,
    false,
  ]);
  expect(await Promise.all([old, young, asked].map((sha256) => store.size(sha256)))).toEqual([undefined, 5, 5]);
  expect(await store.remove(old, hourMs)).toBe(false);
});

test("many ask while one removes: a size that was answered stands for a file that is there", async () => {
  for (let i = 0; i < 50; i++) {
    const sha256 = await stored(`race ${i}`, 48 * hourMs);
    const [size, isRemoved] = await Promise.all([store.size(sha256), store.remove(sha256, hourMs)]);
    const after = await store.size(sha256);
    if (size !== undefined) expect(after).toBe(size);
    expect(after === undefined).toBe(isRemoved);
  }
});

test("a file that a dead process had moved aside comes back with the next walk", async () => {
  const sha256 = await stored("aside", 48 * hourMs);
  await rename(pathOf(sha256), `${pathOf(sha256)}.leaving`);
  // Whoever moved it may be at it still, for ten minutes; asked for what is idle at all, nobody is.
  expect(await idle(hourMs)).toEqual([]);
  expect(await store.size(sha256)).toBeUndefined();
  await idle(0);
  expect(await idle(hourMs)).toEqual([sha256]);
});
