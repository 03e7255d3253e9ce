// Several control planes on one folder of artifacts: uploads that change the control plane, meet, stall or lie never corrupt
// what is visible and never keep the others from ending.
import { createHash, randomBytes } from "node:crypto";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buffer } from "node:stream/consumers";
import { setTimeout as pause } from "node:timers/promises";
import { afterEach, beforeEach, expect, test } from "vitest";
import type { ArtifactStore } from "./artifact-store.ts";
import { openArtifactFolder } from "./folder.ts";

let folder: string;
let here: ArtifactStore;
let there: ArtifactStore;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "renderplane-shared-"));
  [here, there] = [await openArtifactFolder(folder), await openArtifactFolder(folder)];
});
afterEach(() => rm(folder, { recursive: true, force: true }));

const uploadOf = (bytes: Uint8Array) => ({
  sha256: createHash("sha256").update(bytes).digest("hex"),
  sizeBytes: bytes.byteLength,
});
async function* piecesOf(bytes: Uint8Array, size = 1_000, eachMs?: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.byteLength; at += size) {
    if (eachMs !== undefined) await pause(eachMs);
    yield bytes.subarray(at, at + size);
  }
}
/** Sends until it is whole, from wherever the store says; what a client does. */
const persist = async (store: ArtifactStore, bytes: Uint8Array, eachMs?: number): Promise<number> => {
  const upload = uploadOf(bytes);
  for (let tries = 1; ; tries++) {
    const { received, isComplete } = await store.offset(upload.sha256);
    if (isComplete) return tries;
    try {
      await store.receive({ ...upload, offset: received, bytes: piecesOf(bytes.subarray(received), 1_000, eachMs) });
    } catch (error) {
      expect(error).toMatchObject({ code: "upload_conflict" });
      await pause(5);
    }
  }
};
const partials = () => readdir(join(folder, "partial"));
const until = async (what: string, holds: () => Promise<boolean>) => {
  const end = performance.now() + 20_000;
  while (!(await holds())) {
    if (performance.now() > end) throw new Error(`waited 20 s for: ${what}`);
    await pause(2);
  }
};

test("an upload goes on at another control plane where the first one was killed", async () => {
  const bytes = randomBytes(50_000);
  const upload = uploadOf(bytes);
  await here.receive({ ...upload, offset: 0, bytes: piecesOf(bytes.subarray(0, 20_000)) });
  expect(await there.offset(upload.sha256)).toEqual({ received: 20_000, isComplete: false });
  expect(await there.receive({ ...upload, offset: 20_000, bytes: piecesOf(bytes.subarray(20_000)) })).toEqual({
    received: 50_000,
    isComplete: true,
  });
  expect(await buffer(await here.read(upload.sha256))).toEqual(bytes);
  expect(await partials()).toEqual([]);
});

test("a request that hangs at one does not hold up the other, and what it still brings later harms nothing", async () => {
  const bytes = randomBytes(30_000);
  const upload = uploadOf(bytes);
  const goOn = Promise.withResolvers<void>();
  async function* stalled(): AsyncGenerator<Uint8Array> {
    yield bytes.subarray(0, 10_000);
    await goOn.promise;
    // Wrong bytes, as from a sender that mixed up two files.
    yield Buffer.alloc(20_000);
  }
  const older = here.receive({ ...upload, offset: 0, bytes: stalled() });
  const refusal = expect(older).rejects.toMatchObject({ code: "digest_mismatch" });
  await until("the first part", async () => (await there.offset(upload.sha256)).received === 10_000);
  const began = performance.now();
  await there.receive({ ...upload, offset: 10_000, bytes: piecesOf(bytes.subarray(10_000)) });
  expect(performance.now() - began).toBeLessThan(1_000);
  goOn.resolve();
  await refusal;
  expect(await buffer(await here.read(upload.sha256))).toEqual(bytes);
});

test("the same content at two control planes at once, one slow: both end, the file is right, nothing is left over", async () => {
  const bytes = randomBytes(60_000);
  const slow = persist(here, bytes, 20);
  await until("the slow one to have begun", async () => (await there.offset(uploadOf(bytes).sha256)).received > 3_000);
  const began = performance.now();
  await persist(there, bytes);
  // Not after the slow one, which needs more than a second.
  expect(performance.now() - began).toBeLessThan(900);
  await slow;
  expect(await buffer(await there.read(uploadOf(bytes).sha256))).toEqual(bytes);
  expect(await partials()).toEqual([]);
});

test("bytes that were wrong at one are not what the other goes on from for ever", async () => {
  const bytes = randomBytes(20_000);
  const upload = uploadOf(bytes);
  await here.receive({ ...upload, offset: 0, bytes: piecesOf(Buffer.alloc(5_000)) });
  await expect(
    there.receive({ ...upload, offset: 5_000, bytes: piecesOf(bytes.subarray(5_000)) }),
  ).rejects.toMatchObject({ code: "digest_mismatch" });
  await persist(there, bytes);
  expect(await buffer(await here.read(upload.sha256))).toEqual(bytes);
});

test("streams of unknown digest at both, and a start in between, end whole", async () => {
  const [one, two] = [randomBytes(30_000), randomBytes(30_000)];
  const both = [here.ingest(piecesOf(one, 1_000, 5), 1e6), there.ingest(piecesOf(two, 1_000, 5), 1e6)];
  await until("both to have begun", async () => (await partials()).length === 2);
  await openArtifactFolder(folder);
  expect(await Promise.all(both)).toEqual([uploadOf(one), uploadOf(two)]);
  await here.remove(uploadOf(one).sha256);
  expect(await there.size(uploadOf(one).sha256)).toBeUndefined();
  expect(await there.size(uploadOf(two).sha256)).toBe(30_000);
});
