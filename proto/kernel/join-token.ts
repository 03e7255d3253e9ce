// The text of a join token, which both processes read: `rpj1.<id>.<secret>.<pin>`.
// The id finds the row, the secret (256 bit) proves the right to join, the pin is the SHA-256 of the authority's public key,
// so that an agent knows the control plane before it reveals the secret.
import { RenderplaneError } from "./errors.ts";

export type JoinToken = { readonly id: string; readonly secret: string; readonly pin: string };

// Base64url of 12, 32 and 32 bytes.
const pattern = /^rpj1\.([A-Za-z0-9_-]{16})\.([A-Za-z0-9_-]{43})\.([A-Za-z0-9_-]{43})$/;

export const formatJoinToken = (token: JoinToken): string => `rpj1.${token.id}.${token.secret}.${token.pin}`;

/** Throws token_unknown; the message never repeats the text, which may be a secret with a typing error. */
export const parseJoinToken = (text: string): JoinToken => {
  const [, id, secret, pin] = pattern.exec(text.trim()) ?? [];
  if (id === undefined || secret === undefined || pin === undefined)
    throw new RenderplaneError(
      "token_unknown",
      "the join token is not of the form rpj1.<id>.<secret>.<pin>; copy the whole line, or ask for a new token",
    );
  return { id, secret, pin };
};
