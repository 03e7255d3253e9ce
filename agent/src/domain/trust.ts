// How long the agent may believe that an attempt is still its own. Pure; times are milliseconds of one monotonic clock.
// Counted from when the renewal was *sent*, less a margin: the agent stops before the control plane can give the work away.
// A renewal covers only what its heartbeat listed, that is, what was held when it was sent.

export type Lease = {
  /** When the newest acknowledged renewal was sent. */
  readonly renewedMs: number;
  readonly leaseMs: number;
};

export const trustedUntilMs = (lease: Lease, marginMs: number): number =>
  // A lease that is shorter than the margin (tests, a mistake in a setting) would never be trusted: keep half of it.
  lease.renewedMs + lease.leaseMs - Math.min(marginMs, lease.leaseMs / 2);

/** The lease after a renewal sent at `sentMs`; unchanged when the attempt was not in it or a newer one is known. */
export const renewed = (lease: Lease, heldSinceMs: number, sentMs: number): Lease =>
  sentMs >= heldSinceMs && sentMs > lease.renewedMs ? { ...lease, renewedMs: sentMs } : lease;
