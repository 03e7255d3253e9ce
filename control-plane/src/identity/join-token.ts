// Makes join tokens and checks their secrets. Only the SHA-256 of a secret is ever stored; rows, lifetime and number of uses
// belong to the operations. The text's form is kernel/join-token.ts, because agents read it too.
import { createHash, randomBytes, timingSafeEqual } from "node:crypto";
import { formatJoinToken } from "@renderplane/proto/kernel/join-token.ts";

export { parseJoinToken } from "@renderplane/proto/kernel/join-token.ts";

/** `token` is shown once to a person; `id` and `secretSha256` (hex) are what the store keeps. */
export const makeJoinToken = (
  pin: string,
): { readonly token: string; readonly id: string; readonly secretSha256: string } => {
  const id = randomBytes(12).toString("base64url");
  const secret = randomBytes(32).toString("base64url");
  return { token: formatJoinToken({ id, secret, pin }), id, secretSha256: sha256Of(secret).toString("hex") };
};

/** In constant time, so that the answer's delay says nothing about the stored digest. */
export const isSecret = (secret: string, secretSha256: string): boolean => {
  const stored = Buffer.from(secretSha256, "hex");
  const shown = sha256Of(secret);
  return stored.length === shown.length && timingSafeEqual(stored, shown);
};

const sha256Of = (secret: string): Buffer => createHash("sha256").update(secret, "utf8").digest();
