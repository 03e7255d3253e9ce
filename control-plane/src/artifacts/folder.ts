// Artifacts in a folder: <folder>/<first two digits>/<sha256>, and what is on its way in <folder>/partial.
// A file appears under its digest by rename, after its bytes were verified and are on the disk (fsync of file and folder).
// Uploads of known content survive a restart and go on where they stopped, at this or at another control plane on the same
// folder (partials.ts); one writer a digest at a time in this process (writers.ts).
import { createHash, type Hash } from "node:crypto";
import { createReadStream } from "node:fs";
import { type FileHandle, mkdir, open, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { sha256Pattern } from "@renderplane/proto/kernel/limits.ts";
import type { ArtifactStore, UploadState } from "./artifact-store.ts";
import { openPartials } from "./partials.ts";
import { askSize, listIdle, removeIdle } from "./unnamed.ts";
import { takeOver, type Writer } from "./writers.ts";

/** `writer`: names this process among those that share the folder; new at every start unless a test gives one. */
export const openArtifactFolder = async (folder: string, writer?: string): Promise<ArtifactStore> => {
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const partials = await openPartials(join(folder, "partial"), writer);
  const whole = (sha256: string): string => join(folder, checked(sha256).slice(0, 2), sha256);
  const writers = new Map<string, Writer>();

  const publish = async (file: FileHandle, from: string, sha256: string): Promise<void> => {
    await file.sync();
    const target = whole(sha256);
    const parent = join(target, "..");
    await mkdir(parent, { recursive: true, mode: 0o700 });
    await rename(from, target);
    await syncFolder(parent);
    await syncFolder(folder);
  };

  const offset = async (sha256: string): Promise<UploadState> => {
    const size = await sizeOf(whole(sha256));
    if (size !== undefined) return { received: size, isComplete: true };
    return { received: await partials.received(checked(sha256)), isComplete: false };
  };

  return {
    ingest: async (bytes, maxBytes) => {
      const path = partials.fresh();
      const file = await openToWrite(path);
      const hash = createHash("sha256");
      try {
        const sizeBytes = await append(file, 0, bytes, hash, (size) => {
          if (size > maxBytes)
            throw new RenderplaneError(
              "body_too_large",
              `The file has more than the ${maxBytes} bytes that are accepted.`,
            );
        });
        const sha256 = hash.digest("hex");
        await publish(file, path, sha256);
        return { sha256, sizeBytes };
      } catch (error) {
        await rm(path, { force: true });
        throw asStorageError(error);
      } finally {
        await file.close();
      }
    },

    receive: async ({ sha256, sizeBytes, offset: from, bytes }) => {
      const path = partials.own(checked(sha256));
      const writer = await takeOver(writers, sha256);
      try {
        const state = await offset(sha256);
        if (state.isComplete && state.received !== sizeBytes)
          throw mismatch(sha256, `${state.received} bytes, and ${sizeBytes} were announced`);
        if (state.isComplete) return state;
        if (!(await partials.continueAt(sha256, from))) throw conflict(sha256, from, state.received);
        const file = await openToWrite(path);
        try {
          const hash = createHash("sha256");
          if (from > 0) for await (const chunk of createReadStream(path, { end: from - 1 })) hash.update(chunk);
          const received = await append(file, from, writer.watched(bytes), hash, (size) => {
            if (size > sizeBytes) throw mismatch(sha256, `more than the ${sizeBytes} bytes that were announced`);
          });
          if (received < sizeBytes) return { received, isComplete: false };
          const found = hash.digest("hex");
          if (found !== sha256) throw mismatch(sha256, `${received} bytes with sha256 ${found}`);
          await publish(file, path, sha256).catch(async (error: unknown) => {
            // Another control plane has the whole file and cleared the rest, or found the bytes that we went on from wrong.
            if (!isGone(error)) throw error;
            if ((await sizeOf(whole(sha256))) !== sizeBytes) throw conflict(sha256, from, 0);
          });
          await partials.clear(sha256);
          return { received, isComplete: true };
        } catch (error) {
          if (error instanceof RenderplaneError && error.code === "digest_mismatch") await partials.clear(sha256);
          throw asStorageError(error);
        } finally {
          await file.close();
        }
      } finally {
        writer.end();
        if (writers.get(sha256) === writer) writers.delete(sha256);
      }
    },

    offset,
    remove: (sha256, idleMs = 0) => removeIdle(whole(sha256), idleMs),
    idle: (idleMs) => listIdle(folder, idleMs),
    size: async (sha256) => askSize(whole(sha256)),
    read: async (sha256, range) => (await openToRead(whole(sha256))).createReadStream(range ?? {}),
    head: async (sha256, bytes) => {
      const file = await openToRead(whole(sha256));
      try {
        const { buffer, bytesRead } = await file.read(Buffer.alloc(bytes), 0, bytes, 0);
        return buffer.subarray(0, bytesRead);
      } finally {
        await file.close();
      }
    },
  };
};

/** Writes in order from `position` on; returns the end. `check` sees the size before the bytes are written. */
const append = async (
  file: FileHandle,
  position: number,
  bytes: AsyncIterable<Uint8Array>,
  hash: Hash,
  check: (size: number) => void,
): Promise<number> => {
  let end = position;
  for await (const chunk of bytes) {
    check(end + chunk.byteLength);
    for (let done = 0; done < chunk.byteLength; ) {
      const { bytesWritten } = await file.write(chunk, done, chunk.byteLength - done, end + done);
      done += bytesWritten;
    }
    hash.update(chunk);
    end += chunk.byteLength;
  }
  return end;
};

const conflict = (sha256: string, from: number, received: number): RenderplaneError =>
  new RenderplaneError("upload_conflict", `The upload of ${sha256} continues at byte ${received}, not at ${from}.`, {
    fields: [{ pointer: "/upload-offset", detail: String(received) }],
    next: `Send Upload-Offset: ${received} and the bytes from there on.`,
  });

const mismatch = (sha256: string, found: string): RenderplaneError =>
  new RenderplaneError(
    "digest_mismatch",
    `The upload of ${sha256} has ${found}; what this upload brought is removed.`,
    {
      next: "Send the file again from its first byte.",
    },
  );

const asStorageError = (error: unknown): unknown => {
  const code = error instanceof Error && "code" in error ? error.code : undefined;
  if (code !== "ENOSPC" && code !== "EDQUOT") return error;
  return new RenderplaneError("storage_full", "The artifact folder has no space left.", {
    next: "Free space on its file system; the upload then goes on where it stopped.",
    retryAfterMs: 30_000,
    cause: error,
  });
};

/** Digests come from addresses: only 64 hexadecimal digits ever become part of a path. */
const checked = (sha256: string): string => {
  if (sha256Pattern.test(sha256)) return sha256;
  throw new RenderplaneError("artifact_not_found", "An artifact is named by its sha256, 64 hexadecimal digits.");
};

const isGone = (error: unknown): boolean => error instanceof Error && "code" in error && error.code === "ENOENT";

const openToWrite = async (path: string): Promise<FileHandle> => {
  try {
    return await open(path, "r+");
  } catch {
    return open(path, "wx+", 0o600).catch((error) => {
      throw asStorageError(error);
    });
  }
};

const openToRead = async (path: string): Promise<FileHandle> => {
  try {
    return await open(path, "r");
  } catch (error) {
    throw new RenderplaneError("artifact_not_found", "The bytes of this artifact are not in the store.", {
      cause: error,
    });
  }
};

const sizeOf = async (path: string): Promise<number | undefined> => (await stat(path).catch(() => undefined))?.size;

const syncFolder = async (path: string): Promise<void> => {
  const handle = await open(path, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
};
