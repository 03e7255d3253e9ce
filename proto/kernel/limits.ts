// Every bound that both processes must agree on, with what happens when it is reached.
// Timings follow the measured reference: a lease is six heartbeats, and the agent stops before the lease can be given away.

/** Above it the message is not sent: the sender shortens details first, and drops progress. */
export const maxControlMessageBytes = 256 * 1024;
/** gRPC receive limit; a larger message ends the stream with RESOURCE_EXHAUSTED. */
export const maxReceiveMessageBytes = 1024 * 1024;
/** Messages queued for a peer that does not read; above it the stream is closed and resumes later. */
export const maxQueuedMessages = 1000;
/** Result of a stage as JSON; a larger one fails the attempt as agent_bug. */
export const maxResultBytes = 64 * 1024;
/** Evidence and other error texts; cut in front, the end is kept. */
export const maxEvidenceBytes = 16 * 1024;
export const maxOutputsPerStage = 200;
export const maxInputsPerStage = 400;
/** Attempts that one host may hold; more are not offered. */
export const maxAttemptsPerHost = 64;

/** A job submission without media; larger bodies are refused with 413. */
export const maxJobBodyBytes = 1024 * 1024;
/** A script in UTF-8; about 100 minutes of speech. Longer ones are refused with 422. */
export const maxScriptBytes = 100_000;
/** One uploaded file; larger ones are refused with 413 while they are read. */
export const maxMediaFileBytes = 8 * 1024 ** 3;
export const maxMediaFiles = 100;

export const artifactNamePattern = /^[A-Za-z0-9][A-Za-z0-9._-]{0,119}$/;
export const sha256Pattern = /^[0-9a-f]{64}$/;

export const protocolVersion = 1;

/** The timings of a fleet. Tests shorten all of them together; the defaults are the product's. */
export type Timings = {
  readonly heartbeatMs: number;
  /** A renewal that is not acknowledged for this long may be given away after graceMs. */
  readonly leaseMs: number;
  /** Between the end of a lease and `lost`: a late heartbeat still saves the work. */
  readonly graceMs: number;
  /** An offer that is not answered returns to the queue. */
  readonly offerMs: number;
  /** The agent stops by itself this long before leaseMs has passed since the renewal was sent. */
  readonly trustMarginMs: number;
  /** TERM, then KILL after this. */
  readonly killAfterMs: number;
};
export const defaultTimings: Timings = {
  heartbeatMs: 5_000,
  leaseMs: 30_000,
  graceMs: 30_000,
  offerMs: 10_000,
  trustMarginMs: 5_000,
  killAfterMs: 10_000,
};
