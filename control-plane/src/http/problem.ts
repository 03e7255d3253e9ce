// Every error answer of this edge, as RFC 9457 problem+json. The status comes from the one table of codes and nothing else
// decides one, except that the older /pipeline paths keep their 400 for whatever is wrong with a request.
// Invariant: what is not a RenderplaneError is a fault of ours: it is logged whole and shown as `internal` without details.

import { z } from "@hono/zod-openapi";
import { type ErrorCode, errorCodes, type FieldError, RenderplaneError } from "@renderplane/proto/kernel/errors.ts";

export const problemSchema = z
  .strictObject({
    type: z.string(),
    title: z.string(),
    status: z.int(),
    detail: z.string(),
    instance: z.string(),
    code: z.string(),
    trace_id: z.string(),
    errors: z.array(z.strictObject({ pointer: z.string(), detail: z.string() })),
    retryable: z.boolean(),
    next: z.string(),
  })
  .openapi("Problem", { description: "RFC 9457. `code` is stable; `errors` names fields by JSON pointer." });
export type Problem = z.infer<typeof problemSchema>;

/** Wait that is proposed when an error that may pass does not name one. */
const defaultRetryAfterMs = 1_000;

export const problemResponse = (
  error: unknown,
  where: { readonly path: string; readonly traceId: string; readonly allow?: readonly string[] },
): Response => {
  const failure =
    error instanceof RenderplaneError
      ? error
      : new RenderplaneError("internal", "Something went wrong here; the log has the cause under this trace id.", {
          next: "Try again; if it stays, look for the trace id in the log of the control plane.",
        });
  const row = errorCodes[failure.code];
  const status = isLegacy(where.path) ? legacyStatus(row.http) : row.http;
  const headers = new Headers({ "content-type": "application/problem+json", "cache-control": "no-store" });
  if (row.http === 429 || row.http === 503 || failure.retryAfterMs !== undefined)
    headers.set("retry-after", String(Math.ceil((failure.retryAfterMs ?? defaultRetryAfterMs) / 1000)));
  if (where.allow) headers.set("allow", where.allow.join(", "));
  const body: Problem = {
    type: problemType(failure.code),
    title: row.title,
    status,
    detail: failure.message,
    instance: where.path,
    code: failure.code,
    trace_id: where.traceId,
    errors: failure.fields.map((field: FieldError) => ({ pointer: field.pointer, detail: field.detail })),
    retryable: row.retryable,
    next: failure.next,
  };
  return new Response(JSON.stringify(body), { status, headers });
};

/** A URN: it names the kind of problem and needs no page that could be missing on a farm without internet. */
const problemType = (code: ErrorCode): string => `urn:renderplane:problem:${code}`;

const isLegacy = (path: string): boolean => path.startsWith("/pipeline/");
/** Answers that are about the address or the sender, not about what the request says. */
const keptStatuses: readonly number[] = [403, 404, 405];
/** The older clients know 400 for a refused request; faults of ours stay 5xx. */
const legacyStatus = (status: number): number => (status >= 500 || keptStatuses.includes(status) ? status : 400);

/** The problem answers of a route for the OpenAPI document: one entry a status. */
export const problems = (...codes: readonly ErrorCode[]) =>
  Object.fromEntries(
    [...new Set(codes.map((code) => errorCodes[code].http))].map((status) => [
      status,
      {
        description: codes
          .filter((code) => errorCodes[code].http === status)
          .map((code) => `${code}: ${errorCodes[code].title}`)
          .join(". "),
        content: { "application/problem+json": { schema: problemSchema } },
      },
    ]),
  );
