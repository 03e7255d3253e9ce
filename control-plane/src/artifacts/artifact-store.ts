// What an artifact store does, for the folder of the embedded default and any other store alike. Content is addressed by its
// sha256; what a file is called and whom it belongs to are rows, not files.
// Invariant: whoever sees an artifact sees all of it, and its bytes have the digest in its name.
import type { Readable } from "node:stream";

export type UploadState = { readonly received: number; readonly isComplete: boolean };

export type ArtifactStore = {
  /**
   * Streams bytes of unknown digest in: hashed while they are written, visible once they are safe on the disk.
   * Throws body_too_large above maxBytes, storage_full. What was written of a failed one is removed.
   */
  ingest(bytes: AsyncIterable<Uint8Array>, maxBytes: number): Promise<{ sha256: string; sizeBytes: number }>;
  /**
   * Starts (offset 0) or continues the upload of known content. A newer call for the same digest waits for an older one, and
   * takes over from it after a second. Throws upload_conflict (the right offset is the detail of the field `/upload-offset`), digest_mismatch (what was
   * received is removed), storage_full. When `bytes` throws, what came before it is kept for the next call.
   */
  receive(request: {
    readonly sha256: string;
    readonly sizeBytes: number;
    readonly offset: number;
    readonly bytes: AsyncIterable<Uint8Array>;
  }): Promise<UploadState>;
  offset(sha256: string): Promise<UploadState>;
  /**
   * Only for what no row names any more. Removes nothing, and answers false, when it was stored or its size was asked within the last
   * `idleMs` (default 0): whoever asked is about to name it.
   */
  remove(sha256: string, idleMs?: number): Promise<boolean>;
  /** Digests of what is stored whole and that nobody stored or asked for within the last `idleMs`. */
  idle(idleMs: number): AsyncIterable<string>;
  /** undefined: not stored whole. Keeps it from being removed for the next hour. */
  size(sha256: string): Promise<number | undefined>;
  /** `end` is inclusive. Throws artifact_not_found before any byte is read. */
  read(sha256: string, range?: { readonly start: number; readonly end: number }): Promise<Readable>;
  /** The first bytes, fewer when the file is shorter. */
  head(sha256: string, bytes: number): Promise<Uint8Array>;
};
