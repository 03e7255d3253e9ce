// Reads JSON bodies: bounded, UTF-8, with a place in the text when they cannot be read, and nothing that cannot be stored.
// What the value means is checked by others. Invariant: at most `maxBytes` of a body are ever held in memory.
import type { IncomingMessage } from "node:http";
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { unstorable } from "../domain/storable.ts";

/** Throws body_too_large, or malformed_body when the sender went away. */
export const readBytes = async (from: AsyncIterable<Uint8Array>, maxBytes: number): Promise<Buffer> => {
  const parts: Uint8Array[] = [];
  let size = 0;
  try {
    for await (const part of from) {
      size += part.length;
      if (size > maxBytes) throw tooLarge(maxBytes);
      parts.push(part);
    }
  } catch (error) {
    if (error instanceof RenderplaneError) throw error;
    throw new RenderplaneError("malformed_body", "The body ended before it was complete.", { cause: error });
  }
  return Buffer.concat(parts);
};

/** The JSON of a request; an empty body is `undefined` and for the caller to judge. */
export const readJson = async (incoming: IncomingMessage, maxBytes: number): Promise<unknown> => {
  const type = mediaTypeOf(incoming.headers["content-type"]);
  const bytes = await readBytes(withoutDestroying(incoming), maxBytes);
  if (bytes.length === 0) return undefined;
  if (type !== "application/json")
    throw new RenderplaneError(
      "unsupported_media_type",
      `The body must be application/json, got ${type === "" ? "no Content-Type" : type}.`,
    );
  return parseJson(bytes);
};

/** A `for await` that stops early destroys what it reads; the socket must live on to carry the answer. */
export const withoutDestroying = (incoming: IncomingMessage): AsyncIterable<Uint8Array> => ({
  [Symbol.asyncIterator]: () => incoming.iterator({ destroyOnReturn: false }),
});

export const mediaTypeOf = (header: string | undefined): string =>
  (header ?? "").split(";")[0]?.trim().toLowerCase() ?? "";

/** Throws malformed_body with the line and column of the first thing that is wrong, invalid_request for what cannot be stored. */
export const parseJson = (bytes: Uint8Array): unknown => {
  const value = readValue(bytes);
  const wrong = unstorable(value);
  if (wrong) throw new RenderplaneError("invalid_request", `${wrong.detail}.`, { fields: [wrong] });
  return value;
};

const readValue = (bytes: Uint8Array): unknown => {
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new RenderplaneError("malformed_body", "The body is not UTF-8 text.");
  }
  try {
    return JSON.parse(text);
  } catch {
    const at = offsetOfError(text);
    const before = text.slice(0, at).split("\n");
    const found = at >= text.length ? "the end of the body" : JSON.stringify(text[at]);
    throw new RenderplaneError(
      "malformed_body",
      `The body is not JSON: unexpected ${found} at line ${before.length}, column ${(before.at(-1)?.length ?? 0) + 1} (position ${at}).`,
    );
  }
};

const token =
  /\s*(?:([{}[\],:])|("(?:[^"\\\p{Cc}]|[\u007f-\u009f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*")|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?(?![\w.])|true\b|false\b|null\b)/uy;

/** The engine's own message often has no position, so the text is walked once more, by the grammar, to the first wrong token. */
const offsetOfError = (text: string): number => {
  const open: string[] = [];
  let expected: "value" | "value or ]" | "key" | "key or }" | ":" | "after" = "value";
  const words = new RegExp(token.source, token.flags);
  for (;;) {
    const from = words.lastIndex;
    const match = words.exec(text);
    const start = from + (text.slice(from).match(/^\s*/)?.[0].length ?? 0);
    if (!match) return start;
    const mark = match[1];
    const isKey = match[2] !== undefined && expected.startsWith("key");
    const closes = mark === "}" || mark === "]";
    if (expected.startsWith("value") && (mark === undefined || mark === "{" || mark === "[")) {
      if (mark !== undefined) open.push(mark);
      expected = mark === "{" ? "key or }" : mark === "[" ? "value or ]" : "after";
    } else if (isKey) expected = ":";
    else if (expected === ":" && mark === ":") expected = "value";
    else if (expected === "after" && mark === "," && open.length > 0) expected = open.at(-1) === "{" ? "key" : "value";
    else if (
      closes &&
      (expected === "after" || expected.endsWith(mark)) &&
      open.at(-1) === (mark === "}" ? "{" : "[")
    ) {
      open.pop();
      expected = "after";
    } else return start;
  }
};

const tooLarge = (maxBytes: number) =>
  new RenderplaneError("body_too_large", `The body is larger than the limit of ${maxBytes} bytes.`, {
    next: "Send media as file parts of multipart/form-data, not inside the JSON.",
  });
