// Turns an HTTP request into a submission: its body, its files and its Idempotency-Key become one checked value.
// What the pipeline allows is checked by the operations; here the names of uploaded files are tied to what the request says.
// Invariant: stored names are safe, and `media_names` keeps what the sender called them.
import type { IncomingMessage } from "node:http";
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { maxJobBodyBytes } from "@renderplane/proto/kernel/limits.ts";
import type { JsonObject } from "../domain/records.ts";
import { mediaTypeOf, readJson } from "./body.ts";
import { readMultipart, type UploadedMedia } from "./multipart.ts";
import type { HttpContext, HttpOperations, ParsedSubmission, Submission } from "./operations.ts";

export const readSubmission = async (
  incoming: IncomingMessage,
  ctx: Pick<HttpContext, "artifacts">,
  operations: Pick<HttpOperations, "parseSubmission">,
): Promise<Submission> => {
  const idempotencyKey = idempotencyKeyOf(incoming.headers["idempotency-key"]);
  const isForm = mediaTypeOf(incoming.headers["content-type"]) === "multipart/form-data";
  const { body, media } = isForm
    ? await readMultipart(incoming, ctx.artifacts)
    : { body: await readJson(incoming, maxJobBodyBytes), media: [] };
  const parsed = operations.parseSubmission(body);
  return { ...withMedia(parsed, media), ...(idempotencyKey === undefined ? {} : { idempotencyKey }) };
};

/** Names the files in the request as they are stored, in the order that request.media gives; the rest follow as they came. */
export const withMedia = (parsed: ParsedSubmission, media: readonly UploadedMedia[]): Submission => {
  if (media.length === 0) return { ...parsed, uploads: [] };
  const order = orderOf(parsed.request);
  const byName = new Map(media.map((file) => [file.original, file]));
  const sorted = [...new Set([...order.flatMap((name) => byName.get(name) ?? []), ...media])];
  const request: JsonObject = {
    ...parsed.request,
    // A name that nothing was uploaded for stays as it is: the submission is refused with it.
    ...(order.length === 0 ? {} : { media: order.map((name) => byName.get(name)?.name ?? name) }),
    media_names: Object.fromEntries(sorted.map((file) => [file.name, file.original])),
  };
  const uploads = sorted.map(({ name, sha256, sizeBytes, mediaType }) => ({ name, sha256, sizeBytes, mediaType }));
  return { ...parsed, request, uploads };
};

const orderOf = (request: JsonObject): readonly string[] =>
  Array.isArray(request.media) ? request.media.filter((name) => typeof name === "string") : [];

/** A structured-field string or a bare token, 1 to 255 visible characters. */
export const idempotencyKeyOf = (header: string | string[] | undefined): string | undefined => {
  if (header === undefined) return undefined;
  const raw = Array.isArray(header) ? header.join(", ") : header.trim();
  const key = /^"(?:[^"\\]|\\["\\])*"$/.test(raw) ? raw.slice(1, -1).replace(/\\(["\\])/g, "$1") : raw;
  if (!/^[\x21-\x7e]{1,255}$/.test(key))
    throw new RenderplaneError(
      "invalid_request",
      "The Idempotency-Key must be 1 to 255 visible ASCII characters without spaces, best a UUID.",
    );
  return key;
};
