// When the agent notices that it stood still, and what ends that.
import { silentLogger } from "@renderplane/proto/kernel/process/logger.ts";
import { expect, test } from "vitest";
import { createStallGuard } from "./stall.ts";

const guardAt = () => {
  let now = 0;
  const guard = createStallGuard({ log: silentLogger(), nowMs: () => now });
  return { guard, pass: (ms: number) => (now += ms), now: () => now };
};

test("a gap of more than two heartbeats is a stall, a shorter one is none", () => {
  const { guard, pass } = guardAt();
  guard.arm(100);
  pass(200);
  expect(guard.isStalled()).toBe(false);
  pass(201);
  expect(guard.isStalled()).toBe(true);
});

test("only what was sent after the gap ends it", () => {
  const { guard, pass, now } = guardAt();
  guard.arm(100);
  const before = now();
  pass(5_000);
  // The acknowledgement of a heartbeat from before the gap is read first after it.
  expect(guard.confirm(before)).toBe(false);
  expect(guard.isStalled()).toBe(true);
  pass(1);
  expect(guard.confirm(now())).toBe(true);
  expect(guard.isStalled()).toBe(false);
});

test("without a session there is nobody to confirm, so nothing is held back", () => {
  const { guard, pass } = guardAt();
  pass(60_000);
  expect(guard.isStalled()).toBe(false);
});
