// The folder of artifacts on a real disk: whole and verified or not visible, resumed where it broke, one writer a digest.
import { createHash, randomBytes } from "node:crypto";
import { mkdtemp, readdir, readFile, rm, symlink, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buffer } from "node:stream/consumers";
import { setTimeout as pause } from "node:timers/promises";
import fc from "fast-check";
import { afterEach, beforeEach, expect, test } from "vitest";
import { openArtifactFolder } from "./folder.ts";

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "renderplane-artifacts-"));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

const digestOf = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");
/** In uneven pieces, and then, when `broken` is given, that error instead of an end. */
async function* piecesOf(bytes: Uint8Array, broken?: Error): AsyncGenerator<Uint8Array> {
  for (let at = 0, size = 1; at < bytes.byteLength; at += size, size = size * 3 + 1)
    yield bytes.subarray(at, at + size);
  if (broken) throw broken;
}
const partials = (): Promise<string[]> => readdir(join(folder, "partial"));

test("bytes of unknown digest are stored under it, and read whole, in part and from the start", async () => {
  const store = await openArtifactFolder(folder);
  const bytes = randomBytes(100_000);
  const sha256 = digestOf(bytes);
  expect(await store.size(sha256)).toBeUndefined();
  expect(await store.ingest(piecesOf(bytes), bytes.byteLength)).toEqual({ sha256, sizeBytes: bytes.byteLength });
  expect(await readFile(join(folder, sha256.slice(0, 2), sha256))).toEqual(bytes);
  expect(await store.size(sha256)).toBe(bytes.byteLength);
  expect(await buffer(await store.read(sha256))).toEqual(bytes);
  expect(await buffer(await store.read(sha256, { start: 10, end: 19 }))).toEqual(bytes.subarray(10, 20));
  expect(Buffer.from(await store.head(sha256, 16))).toEqual(bytes.subarray(0, 16));
  // The same content again is the same artifact.
  expect(await store.ingest(piecesOf(bytes), bytes.byteLength)).toEqual({ sha256, sizeBytes: bytes.byteLength });
  expect(await store.receive({ sha256, sizeBytes: bytes.byteLength, offset: 0, bytes: piecesOf(bytes) })).toEqual({
    received: bytes.byteLength,
    isComplete: true,
  });
  expect(await partials()).toEqual([]);
});

test("an empty file is an artifact, and its head is shorter than asked for", async () => {
  const store = await openArtifactFolder(folder);
  const { sha256 } = await store.ingest(piecesOf(new Uint8Array()), 10);
  expect(await store.size(sha256)).toBe(0);
  expect(await store.head(sha256, 16)).toHaveLength(0);
  expect(await buffer(await store.read(sha256))).toHaveLength(0);
});

test("what is too large or breaks off while it is ingested leaves nothing", async () => {
  const store = await openArtifactFolder(folder);
  await expect(store.ingest(piecesOf(randomBytes(1001)), 1000)).rejects.toMatchObject({ code: "body_too_large" });
  await expect(store.ingest(piecesOf(randomBytes(50), new Error("client gone")), 1000)).rejects.toThrow("client gone");
  expect(await readdir(folder)).toEqual(["partial"]);
  expect(await partials()).toEqual([]);
});

test("an unknown digest is artifact_not_found, and nothing but a digest ever names a file", async () => {
  const store = await openArtifactFolder(folder);
  await writeFile(join(folder, "secret"), "x");
  for (const name of ["0".repeat(64), "../secret", "secret", `${"a".repeat(63)}/`, "A".repeat(64), ""]) {
    await expect(store.read(name)).rejects.toMatchObject({ code: "artifact_not_found" });
    await expect(store.head(name, 1)).rejects.toMatchObject({ code: "artifact_not_found" });
  }
  await expect(store.size("../secret")).rejects.toMatchObject({ code: "artifact_not_found" });
  await expect(
    store.receive({ sha256: "../x", sizeBytes: 1, offset: 0, bytes: piecesOf(Buffer.from("x")) }),
  ).rejects.toMatchObject({ code: "artifact_not_found" });
});

test("an upload that breaks off goes on where it stopped, also after a restart, and only there", async () => {
  const bytes = randomBytes(30_000);
  const upload = { sha256: digestOf(bytes), sizeBytes: bytes.byteLength };
  const first = await openArtifactFolder(folder);
  const broken = first.receive({ ...upload, offset: 0, bytes: piecesOf(bytes.subarray(0, 7_000), new Error("reset")) });
  await expect(broken).rejects.toThrow("reset");

  const store = await openArtifactFolder(folder);
  expect(await store.offset(upload.sha256)).toEqual({ received: 7_000, isComplete: false });
  // Nobody writes it any more: then there is only one right place.
  const before = new Date(Date.now() - 10_000);
  for (const name of await partials()) await utimes(join(folder, "partial", name), before, before);
  for (const offset of [0, 6_999, 7_001]) {
    await expect(store.receive({ ...upload, offset, bytes: piecesOf(bytes.subarray(offset)) })).rejects.toMatchObject({
      code: "upload_conflict",
      fields: [{ pointer: "/upload-offset", detail: "7000" }],
    });
  }
  // A clean end before the last byte is a part, too.
  expect(await store.receive({ ...upload, offset: 7_000, bytes: piecesOf(bytes.subarray(7_000, 9_000)) })).toEqual({
    received: 9_000,
    isComplete: false,
  });
  expect(await store.size(upload.sha256)).toBeUndefined();
  await expect(store.read(upload.sha256)).rejects.toMatchObject({ code: "artifact_not_found" });
  expect(await store.receive({ ...upload, offset: 9_000, bytes: piecesOf(bytes.subarray(9_000)) })).toEqual({
    received: 30_000,
    isComplete: true,
  });
  expect(await buffer(await store.read(upload.sha256))).toEqual(bytes);
  expect(await partials()).toEqual([]);
});

test("wherever an upload is cut, what becomes visible is exactly the file", async () => {
  const store = await openArtifactFolder(folder);
  await fc.assert(
    fc.asyncProperty(
      fc.uint8Array({ maxLength: 500 }),
      fc.array(fc.nat(500), { maxLength: 5 }),
      async (content, cuts) => {
        const sha256 = digestOf(content);
        for (const cut of [...cuts, content.length]) {
          const { received, isComplete } = await store.offset(sha256);
          if (isComplete) break;
          expect(await store.size(sha256)).toBeUndefined();
          const bytes = piecesOf(content.subarray(received, Math.max(received, Math.min(cut, content.length))));
          await store.receive({ sha256, sizeBytes: content.length, offset: received, bytes });
        }
        expect(await buffer(await store.read(sha256))).toEqual(Buffer.from(content));
      },
    ),
    { numRuns: 40 },
  );
});

test.each([
  ["other bytes", 1_000, randomBytes(1_000)],
  ["more than announced", 1_000, randomBytes(1_001)],
])("%s under a digest are digest_mismatch, and nothing of them stays", async (_name, sizeBytes, bytes) => {
  const store = await openArtifactFolder(folder);
  const sha256 = digestOf(Buffer.from("something else"));
  await expect(store.receive({ sha256, sizeBytes, offset: 0, bytes: piecesOf(bytes) })).rejects.toMatchObject({
    code: "digest_mismatch",
    next: "Send the file again from its first byte.",
  });
  expect(await store.offset(sha256)).toEqual({ received: 0, isComplete: false });
  expect(await partials()).toEqual([]);
});

test("damage in the part that was received earlier is found at the end", async () => {
  const store = await openArtifactFolder(folder, "w");
  const bytes = randomBytes(2_000);
  const upload = { sha256: digestOf(bytes), sizeBytes: 2_000 };
  await store.receive({ ...upload, offset: 0, bytes: piecesOf(bytes.subarray(0, 1_000)) });
  await writeFile(join(folder, "partial", `${upload.sha256}.w`), Buffer.alloc(1_000));
  await expect(
    store.receive({ ...upload, offset: 1_000, bytes: piecesOf(bytes.subarray(1_000)) }),
  ).rejects.toMatchObject({
    code: "digest_mismatch",
  });
  expect(await store.offset(upload.sha256)).toEqual({ received: 0, isComplete: false });
});

test("a newer request takes over from one whose bytes no longer come", async () => {
  const store = await openArtifactFolder(folder);
  const bytes = randomBytes(5_000);
  const upload = { sha256: digestOf(bytes), sizeBytes: 5_000 };
  async function* stalled(): AsyncGenerator<Uint8Array> {
    yield bytes.subarray(0, 2_000);
    await new Promise(() => {});
  }
  const older = store.receive({ ...upload, offset: 0, bytes: stalled() });
  const refusal = expect(older).rejects.toMatchObject({ code: "upload_conflict" });
  const end = performance.now() + 5_000;
  while ((await store.offset(upload.sha256)).received < 2_000 && performance.now() < end) await pause(2);
  const newer = store.receive({ ...upload, offset: 2_000, bytes: piecesOf(bytes.subarray(2_000)) });
  expect(await newer).toEqual({ received: 5_000, isComplete: true });
  await refusal;
  expect(await buffer(await store.read(upload.sha256))).toEqual(bytes);
});

test("many requests for one digest at once: one file, right, and nothing left over", async () => {
  const store = await openArtifactFolder(folder);
  const bytes = randomBytes(20_000);
  const upload = { sha256: digestOf(bytes), sizeBytes: 20_000 };
  const persist = async (): Promise<void> => {
    for (;;) {
      const { received, isComplete } = await store.offset(upload.sha256);
      if (isComplete) return;
      try {
        await store.receive({ ...upload, offset: received, bytes: piecesOf(bytes.subarray(received)) });
      } catch (error) {
        expect(error).toMatchObject({ code: "upload_conflict" });
      }
    }
  };
  await Promise.all(Array.from({ length: 6 }, persist));
  expect(await buffer(await store.read(upload.sha256))).toEqual(bytes);
  expect(await partials()).toEqual([]);
});

test("a full disk is storage_full, with what to do", async () => {
  const store = await openArtifactFolder(folder, "w");
  const bytes = randomBytes(10_000);
  const sha256 = digestOf(bytes);
  // Every write to this device fails as one to a full disk does.
  await symlink("/dev/full", join(folder, "partial", `${sha256}.w`));
  await expect(store.receive({ sha256, sizeBytes: 10_000, offset: 0, bytes: piecesOf(bytes) })).rejects.toMatchObject({
    code: "storage_full",
    message: "The artifact folder has no space left.",
    retryAfterMs: 30_000,
  });
  expect(await store.size(sha256)).toBeUndefined();
});

test("what nobody will continue is removed at the start, a fresh upload is not", async () => {
  const partial = join(folder, "partial");
  await openArtifactFolder(folder);
  const [old, fresh] = ["a".repeat(64), "b".repeat(64)];
  const names = [`${old}.w1`, `${fresh}.w1`, "ingest-0123", "ingest-4567"];
  for (const name of names) await writeFile(join(partial, name), "part");
  const age = async (name: string, ms: number) => {
    const then = new Date(Date.now() - ms);
    await utimes(join(partial, name), then, then);
  };
  await age(`${old}.w1`, 25 * 60 * 60_000);
  await age("ingest-0123", 11 * 60_000);
  await openArtifactFolder(folder);
  // The other two may be another control plane's, which is writing them now.
  expect((await partials()).sort()).toEqual([`${fresh}.w1`, "ingest-4567"].sort());
});
