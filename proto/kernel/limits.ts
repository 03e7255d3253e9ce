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

/** The protocol that this version speaks best, and the oldest that it still understands (one version back). */
export const protocolVersion = 2;
export const oldestProtocol = 1;
/** Ends in one CompleteMany; more are refused as invalid_request. */
export const maxEndsPerCall = 100;
/** Messages in one batch of a session; the rest follows in the next. */
export const maxMessagesPerBatch = 100;
export const tagPattern = /^[a-z0-9][a-z0-9._-]{0,62}$/;

/** The timings of a fleet; all of them follow from the heartbeat, so that no setting can put them out of order. */
export type Timings = {
  readonly heartbeatMs: number;
  /** A host that was silent this long gets no offers and is shown as suspect. */
  readonly suspectMs: number;
  /** A renewal that is not acknowledged for this long may be given away after graceMs. */
  readonly leaseMs: number;
  /** Between the end of a lease and `lost`: a late heartbeat still saves the work. */
  readonly graceMs: number;
  /** An offer that is not answered returns to the queue. */
  readonly offerMs: number;
  /** The agent stops by itself this long before leaseMs has passed since the renewal was sent. */
  readonly trustMarginMs: number;
  /**
   * A stage whose outputs only its own attempt can see goes on this long without an acknowledged heartbeat: a second run of it costs
   * money, a stopped one loses all of its time. A stage that is marked exclusive stops by the margin above.
   */
  readonly orphanMs: number;
  /** TERM, then KILL after this. */
  readonly killAfterMs: number;
  /** A replica leads a loop this long after its last renewal; another one may take over then. */
  readonly leaderMs: number;
  /** A replica that was silent this long is gone: its sessions are closed, its row is removed. */
  readonly replicaMs: number;
  /** So many hosts silent within a minute that we are likely cut off: nothing is given away for this long. */
  readonly valveMs: number;
};
/** Ratios of the measured reference at its five seconds: suspect after 3 beats, lease 6, grace 6, leader and replica 3. */
export const timingsOf = (heartbeatMs: number): Timings => ({
  heartbeatMs,
  suspectMs: heartbeatMs * 3,
  leaseMs: heartbeatMs * 6,
  graceMs: heartbeatMs * 6,
  offerMs: heartbeatMs * 2,
  trustMarginMs: heartbeatMs,
  orphanMs: heartbeatMs * 120,
  // Not scaled: how long a program needs to stop does not depend on the network.
  killAfterMs: 10_000,
  leaderMs: heartbeatMs * 3,
  replicaMs: heartbeatMs * 3,
  valveMs: heartbeatMs * 120,
});
export const defaultTimings: Timings = timingsOf(5_000);
