// How an error of the one table crosses gRPC: the status number says what kind it is, trailing metadata says which one.
// The control plane writes these keys, agents read them; a peer that knows neither still has the status and the text.

/** A code of kernel/errors.ts, e.g. "token_expired". */
export const codeKey = "renderplane-code";
/** Whole milliseconds; wins over the caller's own back-off. */
export const retryAfterKey = "renderplane-retry-after-ms";
