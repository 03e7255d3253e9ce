// The agent's own deadline: before the moment at which the control plane may give exclusive work away; as long as the offer says
// for the rest.
import { timingsOf } from "@renderplane/proto/kernel/limits.ts";
import fc from "fast-check";
import { expect, test } from "vitest";
import { marginOf, orphanLimitMs, renewed, trustedUntilMs } from "./trust.ts";

test("exclusive: trust ends a margin before the lease, counted from when the renewal was sent", () => {
  expect(trustedUntilMs({ renewedMs: 1_000, leaseMs: 30_000, trustedMs: 0 }, 5_000)).toBe(26_000);
});

test("a lease shorter than twice the margin keeps half of itself", () => {
  expect(trustedUntilMs({ renewedMs: 0, leaseMs: 1_000, trustedMs: 0 }, 5_000)).toBe(500);
});

test("trusted: the time that the offer names, whatever the lease is", () => {
  expect(trustedUntilMs({ renewedMs: 1_000, leaseMs: 30_000, trustedMs: 600_000 }, 5_000)).toBe(601_000);
});

test("the margin of a lease is the margin of the timings that made it, at every heartbeat", () => {
  for (const heartbeatMs of [100, 200, 5_000, 60_000]) {
    const timings = timingsOf(heartbeatMs);
    expect(marginOf(timings.leaseMs)).toBe(timings.trustMarginMs);
  }
});

test("the shim ends an orphan after the agent would have, in both classes", () => {
  fc.assert(
    fc.property(fc.integer({ min: 60, max: 60_000 }), fc.nat(600_000), (leaseMs, trustedMs) => {
      const lease = { renewedMs: 0, leaseMs, trustedMs };
      const marginMs = marginOf(leaseMs);
      expect(orphanLimitMs(lease, marginMs)).toBeGreaterThan(trustedUntilMs(lease, marginMs));
    }),
  );
});

test("a heartbeat renews what was held when it was sent, and never takes time away", () => {
  const lease = { renewedMs: 1_000, leaseMs: 30_000, trustedMs: 0 };
  expect(renewed(lease, 900, 5_000).renewedMs).toBe(5_000);
  expect(renewed(lease, 900, 950)).toBe(lease);
  // Sent before the attempt was accepted: it was not listed.
  expect(renewed({ ...lease, renewedMs: 0 }, 900, 800).renewedMs).toBe(0);
});

test("whatever arrives in whatever order, exclusive trust never outlives the lease of the newest renewal sent", () => {
  fc.assert(
    fc.property(
      fc.array(fc.nat(100_000), { maxLength: 20 }),
      fc.integer({ min: 1, max: 60_000 }),
      fc.nat(10_000),
      (sent, leaseMs, marginMs) => {
        const first = { renewedMs: 0, leaseMs, trustedMs: 0 };
        const lease = sent.reduce((held, at) => renewed(held, 0, at), first);
        expect(trustedUntilMs(lease, marginMs)).toBeLessThanOrEqual(Math.max(0, ...sent) + leaseMs);
      },
    ),
  );
});
