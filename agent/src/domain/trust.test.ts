// The agent's own deadline always lies before the moment at which the control plane may give the work away.
import fc from "fast-check";
import { expect, test } from "vitest";
import { renewed, trustedUntilMs } from "./trust.ts";

test("trust ends a margin before the lease, counted from when the renewal was sent", () => {
  expect(trustedUntilMs({ renewedMs: 1_000, leaseMs: 30_000 }, 5_000)).toBe(26_000);
});

test("a lease shorter than twice the margin keeps half of itself", () => {
  expect(trustedUntilMs({ renewedMs: 0, leaseMs: 1_000 }, 5_000)).toBe(500);
});

test("a heartbeat renews what was held when it was sent, and never takes time away", () => {
  const lease = { renewedMs: 1_000, leaseMs: 30_000 };
  expect(renewed(lease, 900, 5_000).renewedMs).toBe(5_000);
  expect(renewed(lease, 900, 950)).toBe(lease);
  // Sent before the attempt was accepted: it was not listed.
  expect(renewed({ ...lease, renewedMs: 0 }, 900, 800).renewedMs).toBe(0);
});

test("whatever arrives in whatever order, trust never outlives the lease of the newest renewal sent", () => {
  fc.assert(
    fc.property(
      fc.array(fc.nat(100_000), { maxLength: 20 }),
      fc.integer({ min: 1, max: 60_000 }),
      fc.nat(10_000),
      (sent, leaseMs, marginMs) => {
        const lease = sent.reduce((held, at) => renewed(held, 0, at), { renewedMs: 0, leaseMs });
        expect(trustedUntilMs(lease, marginMs)).toBeLessThanOrEqual(Math.max(0, ...sent) + leaseMs);
      },
    ),
  );
});
