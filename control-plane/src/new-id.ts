// New ids: a prefix and a ULID, whose random part is taken from a pool. The library alone asks the system for every single letter,
// sixteen times an id, which was a twentieth of the processor time of a busy control plane.
import { randomFillSync } from "node:crypto";
import { ulid } from "ulid";

/** Bytes asked for at once: ids for 256 attempts. */
const poolBytes = 4096;

/** Each call makes a source of its own. */
export const createIds = (): ((prefix: string) => string) => {
  const pool = Buffer.allocUnsafe(poolBytes);
  let at = poolBytes;
  /** 0..1; the library takes one of 32 letters of it, so a byte is enough and every letter is equally likely. */
  const random = () => {
    if (at === poolBytes) {
      randomFillSync(pool);
      at = 0;
    }
    return (pool[at++] ?? 0) / 256;
  };
  return (prefix) => `${prefix}_${ulid(undefined, random)}`;
};
