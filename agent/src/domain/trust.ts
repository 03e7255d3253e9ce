// How long the agent may believe that an attempt is still its own. Pure; times are milliseconds of one monotonic clock.
// Counted from when the renewal was *sent*. Two classes (docs/decisions/0006-lease-classes.md):
//   exclusive  stops a margin before the control plane can give the work away
//   trusted    goes on for the time that its offer names, because its outputs are its own attempt's and a fence judges them
// A renewal covers only what its heartbeat listed, that is, what was held when it was sent.

export type Lease = {
  /** When the newest acknowledged renewal was sent. */
  readonly renewedMs: number;
  readonly leaseMs: number;
  /** Of the offer; 0 for the exclusive class. */
  readonly trustedMs: number;
};

export const trustedUntilMs = (lease: Lease, marginMs: number): number =>
  lease.trustedMs > 0
    ? lease.renewedMs + lease.trustedMs
    : // A lease that is shorter than the margin (tests, a mistake in a setting) would never be trusted: keep half of it.
      lease.renewedMs + lease.leaseMs - Math.min(marginMs, lease.leaseMs / 2);

/** When nobody renews any more, the shim ends the program after this: a margin behind the agent, so that a living agent decides. */
export const orphanLimitMs = (lease: Lease, marginMs: number): number =>
  lease.trustedMs > 0 ? lease.trustedMs + marginMs : lease.leaseMs;

/** A lease is six heartbeats and the margin is one of them, whatever heartbeat the control plane asks for. */
export const marginOf = (leaseMs: number): number => leaseMs / 6;

/** The lease after a renewal sent at `sentMs`; unchanged when the attempt was not in it or a newer one is known. */
export const renewed = (lease: Lease, heldSinceMs: number, sentMs: number): Lease =>
  sentMs >= heldSinceMs && sentMs > lease.renewedMs ? { ...lease, renewedMs: sentMs } : lease;
