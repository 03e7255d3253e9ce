// From a failed gRPC call to the error of the one table: by the code in its metadata, or by its status when there is none.
// CANCELLED is what a server that shuts down sends: it means "come back", not that a person cancelled.
import { type ServiceError, status } from "@grpc/grpc-js";
import { codeKey, retryAfterKey } from "@renderplane/proto/kernel/error-metadata.ts";
import { type ErrorCode, errorCodes, RenderplaneError } from "@renderplane/proto/kernel/errors.ts";

const byStatus: { readonly [S in status]?: ErrorCode } = {
  [status.UNAUTHENTICATED]: "certificate_refused",
  [status.PERMISSION_DENIED]: "forbidden",
  [status.INVALID_ARGUMENT]: "invalid_request",
  [status.FAILED_PRECONDITION]: "protocol_unsupported",
  [status.UNIMPLEMENTED]: "protocol_unsupported",
};

export const fromGrpc = (error: ServiceError): RenderplaneError => {
  const named = String(error.metadata?.get(codeKey)[0] ?? "");
  const code = isErrorCode(named) ? named : (byStatus[error.code] ?? "unavailable");
  const wait = Number(error.metadata?.get(retryAfterKey)[0]);
  return new RenderplaneError(code, error.details || error.message, {
    cause: error,
    ...(wait > 0 ? { retryAfterMs: wait } : {}),
  });
};

/** The same call may succeed later without anybody doing anything. */
export const isPassing = (error: RenderplaneError): boolean => errorCodes[error.code].retryable;

/** The other side is of a release that does not have this call. */
export const isUnimplemented = (error: unknown): boolean =>
  error instanceof RenderplaneError &&
  typeof error.cause === "object" &&
  error.cause !== null &&
  "code" in error.cause &&
  error.cause.code === status.UNIMPLEMENTED;

const isErrorCode = (text: string): text is ErrorCode => Object.hasOwn(errorCodes, text);
