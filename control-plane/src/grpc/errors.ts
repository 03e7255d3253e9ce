// From an error to a gRPC status, by look-up in the one table; the code itself and the wait travel in trailing metadata.
// An unexpected error is logged here and answered without its text, which may hold what a host must not read.
import { Metadata, type status } from "@grpc/grpc-js";
import { codeKey, retryAfterKey } from "@renderplane/proto/kernel/error-metadata.ts";
import { errorCodes, RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import type { Logger } from "@renderplane/proto/kernel/process/logger.ts";

export type GrpcStatus = { readonly code: status; readonly details: string; readonly metadata: Metadata };

/** Trailers share one HTTP/2 header block with a small default limit; a longer text is cut. */
const maxDetailsLength = 2000;

export const statusOf = (error: unknown, log: Logger): GrpcStatus => {
  const known = knownError(error, log);
  const metadata = new Metadata();
  metadata.set(codeKey, known.code);
  if (known.retryAfterMs !== undefined) metadata.set(retryAfterKey, String(Math.ceil(known.retryAfterMs)));
  return { code: errorCodes[known.code].grpc, details: textOf(known), metadata };
};

/** What may be told: anything unexpected is logged and told as `internal` without its text. */
export const knownError = (error: unknown, log: Logger): RenderplaneError => {
  if (error instanceof RenderplaneError) return error;
  log.error({ err: error }, "a call of an agent failed unexpectedly");
  return new RenderplaneError("internal", "an unexpected fault; the log of the control plane has the cause");
};

export const textOf = (error: RenderplaneError): string => {
  const fields = error.fields
    .filter(({ detail }) => !error.message.includes(detail))
    .map(({ pointer, detail }) => `${pointer}: ${detail}`);
  return [error.message, ...fields, error.next]
    .filter((text) => text !== "")
    .join("; ")
    .slice(0, maxDetailsLength);
};
