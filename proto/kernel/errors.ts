// The one table from an error code to its HTTP status, its gRPC status and whether the same call may succeed later.
// Operations throw a RenderplaneError so that their transaction rolls back; both edges translate by look-up and nothing
// else decides a status. A message names the field or thing, what was expected, and what to do next.

type Row = { readonly http: number; readonly grpc: number; readonly retryable: boolean; readonly title: string };

// grpc: numbers of google.rpc.Code, repeated here so that this file needs no library.
export const errorCodes = {
  invalid_request: { http: 422, grpc: 3, retryable: false, title: "The request is not valid" },
  malformed_body: { http: 400, grpc: 3, retryable: false, title: "The body cannot be read" },
  unsupported_media_type: { http: 415, grpc: 3, retryable: false, title: "This type of body is not accepted" },
  body_too_large: { http: 413, grpc: 8, retryable: false, title: "The body is too large" },
  media_refused: { http: 422, grpc: 3, retryable: false, title: "A media file is not accepted" },
  provider_not_configured: { http: 422, grpc: 9, retryable: false, title: "A provider is not configured" },
  unknown_pipeline: { http: 422, grpc: 5, retryable: false, title: "There is no such pipeline" },
  job_not_found: { http: 404, grpc: 5, retryable: false, title: "There is no such job" },
  host_not_found: { http: 404, grpc: 5, retryable: false, title: "There is no such host" },
  artifact_not_found: { http: 404, grpc: 5, retryable: false, title: "There is no such artifact" },
  not_found: { http: 404, grpc: 5, retryable: false, title: "There is nothing at this address" },
  method_not_allowed: { http: 405, grpc: 12, retryable: false, title: "This method is not offered here" },
  range_not_satisfiable: { http: 416, grpc: 11, retryable: false, title: "The range lies outside the file" },
  job_is_final: { http: 409, grpc: 9, retryable: false, title: "The job has already ended" },
  idempotency_conflict: {
    http: 422,
    grpc: 6,
    retryable: false,
    title: "The Idempotency-Key was used for another request",
  },
  queue_full: { http: 429, grpc: 8, retryable: true, title: "The queue is full" },
  rate_limited: { http: 429, grpc: 8, retryable: true, title: "Too much arrives at once" },
  upload_conflict: { http: 409, grpc: 10, retryable: true, title: "The upload continues from another offset" },
  digest_mismatch: { http: 422, grpc: 15, retryable: true, title: "The bytes do not match their checksum" },
  signature_invalid: { http: 403, grpc: 7, retryable: false, title: "The signed address is not valid" },
  forbidden: { http: 403, grpc: 7, retryable: false, title: "This is not allowed" },
  token_unknown: { http: 403, grpc: 16, retryable: false, title: "The join token is not known" },
  token_expired: { http: 403, grpc: 16, retryable: false, title: "The join token has expired" },
  token_used: { http: 403, grpc: 16, retryable: false, title: "The join token has been used" },
  certificate_refused: { http: 403, grpc: 16, retryable: false, title: "The certificate is not accepted" },
  host_name_taken: { http: 409, grpc: 6, retryable: false, title: "Another host has this name" },
  host_conflict: { http: 409, grpc: 9, retryable: false, title: "The host is not in a state that allows this" },
  protocol_unsupported: { http: 400, grpc: 9, retryable: false, title: "The agent speaks another protocol version" },
  lease_lost: { http: 409, grpc: 10, retryable: false, title: "The lease belongs to another attempt" },
  superseded: { http: 409, grpc: 10, retryable: true, title: "A newer session of this host is open" },
  storage_full: { http: 507, grpc: 8, retryable: true, title: "The artifact store is full" },
  unavailable: { http: 503, grpc: 14, retryable: true, title: "A part of the system is not available" },
  internal: { http: 500, grpc: 13, retryable: true, title: "An unexpected fault" },
} as const satisfies Record<string, Row>;

export type ErrorCode = keyof typeof errorCodes;

/** One field that is wrong: a JSON pointer into the body and one sentence. */
export type FieldError = { readonly pointer: string; readonly detail: string };

export class RenderplaneError extends Error {
  override readonly name = "RenderplaneError";
  readonly code: ErrorCode;
  readonly fields: readonly FieldError[];
  /** What to do next, one sentence; "" when the message says it. */
  readonly next: string;
  readonly retryAfterMs: number | undefined;

  constructor(
    code: ErrorCode,
    message: string,
    more: {
      readonly fields?: readonly FieldError[];
      readonly next?: string;
      readonly retryAfterMs?: number;
      readonly cause?: unknown;
    } = {},
  ) {
    super(message, more.cause === undefined ? undefined : { cause: more.cause });
    this.code = code;
    this.fields = more.fields ?? [];
    this.next = more.next ?? "";
    this.retryAfterMs = more.retryAfterMs;
  }
}

export const isCode = (error: unknown, code: ErrorCode): boolean =>
  error instanceof RenderplaneError && error.code === code;
