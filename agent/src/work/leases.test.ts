// The two lease classes over real processes: what stops when nobody renews, what goes on, what the shim does alone; and an agent that
// stood still: it commits and begins nothing before it was confirmed.
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Outcome, VerdictAction } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { markedProcesses } from "../machine/proc.ts";
import { markerName } from "../machine/process.ts";
import {
  createTestAgent,
  createTestDir,
  HELD_STATE_ACCEPTED,
  HELD_STATE_RUNNING,
  helloAck,
  kindOf,
  oneStep,
  removeTestDir,
  type TestAgent,
  testOffer,
  testTimings,
  until,
  writeProgram,
} from "../testing.ts";
import type { StageKind } from "./contract.ts";

let dir = "";
let agents: TestAgent[] = [];
beforeEach(() => {
  dir = createTestDir();
  agents = [];
});
afterEach(async () => {
  for (const agent of agents) await agent.supervisor.stop();
  await removeTestDir(dir);
});
const start = async (kinds: StageKind[], more: Parameters<typeof createTestAgent>[2] = {}) => {
  const agent = createTestAgent(dir, kinds, more);
  agents.push(agent);
  await agent.supervisor.start();
  return agent;
};
const marked = () => markedProcesses(markerName, join(dir, "attempts")).length;
const sleeper = () => writeProgram(dir, "ffmpeg", `touch ${dir}/started; sleep 60`);
const isRunning = () => existsSync(join(dir, "started"));
const timings = { ...testTimings, trustMarginMs: 200, killAfterMs: 500 };

describe("without renewals", () => {
  test("exclusive work stops before its lease is over, trusted work goes on for the time of its offer", async () => {
    writeProgram(dir, "ffmpeg", `echo started >>${dir}/started; sleep 60`);
    const agent = await start([oneStep], { timings });
    const exclusive = testOffer("one", { leaseMs: 900 });
    const trusted = testOffer("one", { leaseMs: 900, trustedMs: 3_500 });
    const began = performance.now();
    for (const offer of [exclusive, trusted]) {
      await agent.take(offer);
      agent.supervisor.onStart(offer);
    }
    expect((await agent.ended(exclusive)).outcome).toBe(Outcome.OUTCOME_INTERRUPTED);
    expect(agent.stateOf(trusted)).toBe(HELD_STATE_RUNNING);
    expect(performance.now() - began).toBeLessThan(3_000);
    expect((await agent.ended(trusted)).outcome).toBe(Outcome.OUTCOME_INTERRUPTED);
    expect(performance.now() - began).toBeGreaterThanOrEqual(3_500);
    expect(marked()).toBe(0);
  });

  test("trusted work that is not the host's any more is discarded at the next Hello", async () => {
    sleeper();
    const agent = await start([oneStep], { timings });
    const offer = testOffer("one", { leaseMs: 200, trustedMs: 60_000 });
    await agent.take(offer);
    agent.supervisor.onStart(offer);
    await until("it runs", isRunning);
    agent.supervisor.onHelloAck(
      helloAck([{ ...offer, action: VerdictAction.VERDICT_ACTION_ABANDON }]),
      performance.now(),
    );
    await until("it is forgotten", () => agent.supervisor.held().length === 0);
    expect(marked()).toBe(0);
    expect(agent.results).toEqual([]);
  });

  test("without an agent the shim ends trusted work a margin after its time, and the next agent says why", async () => {
    sleeper();
    const first = await start([oneStep], { timings });
    const offer = testOffer("one", { leaseMs: 400, trustedMs: 1_200 });
    await first.take(offer);
    first.supervisor.onStart(offer);
    await until("it runs", isRunning);
    await first.supervisor.stop();
    const alone = performance.now();
    await until("the shim ended it", () => marked() === 0);
    // The lease alone would have ended it earlier; the shim looks every quarter of its limit and gives TERM its time.
    expect(performance.now() - alone).toBeGreaterThan(600);
    const second = await start([oneStep], { timings });
    second.supervisor.onHelloAck(
      helloAck([{ ...offer, action: VerdictAction.VERDICT_ACTION_CONTINUE }]),
      performance.now(),
    );
    expect((await second.ended(offer)).outcome).toBe(Outcome.OUTCOME_INTERRUPTED);
  });

  test("a restart within the trusted time adopts the work without being told, far past its lease", async () => {
    writeProgram(dir, "ffmpeg", `echo start >>${dir}/started; sleep 60`);
    const first = await start([oneStep], { timings });
    const offer = testOffer("one", { leaseMs: 200, trustedMs: 60_000 });
    await first.take(offer);
    first.supervisor.onStart(offer);
    await until("it runs", isRunning);
    await first.supervisor.stop();
    // Far past the lease, well within the trust.
    const lease = join(dir, "attempts", offer.attemptId, "lease");
    writeFileSync(lease, `${Number(readFileSync(lease, "utf8")) - 5_000}\n`);
    const second = await start([oneStep], { timings });
    // Only work that goes on has something to give back, and knows what it used.
    second.giveBack(offer);
    expect((await second.ended(offer)).usage).not.toEqual([]);
    expect(readFileSync(join(dir, "started"), "utf8")).toBe("start\n");
  });
});

describe("an agent that stood still", () => {
  /** Nothing of this process runs meanwhile, as under SIGSTOP. */
  const standStill = (ms: number) => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
  const beatMs = 150;
  const hello = () => ({ ...helloAck([]), heartbeatMs: beatMs });
  const quick = kindOf("quick", async () => ({ result: {}, outputs: [] }));

  test("begins nothing that was started meanwhile until a heartbeat sent after the gap is acknowledged", async () => {
    const agent = await start([quick]);
    agent.supervisor.onHelloAck(hello(), performance.now());
    const offer = testOffer("quick");
    await agent.take(offer);
    agent.renew();
    const before = performance.now();
    standStill(3 * beatMs);
    agent.supervisor.onStart(offer);
    expect(agent.stateOf(offer)).toBe(HELD_STATE_ACCEPTED);
    // Sent before the gap: it proves nothing.
    agent.supervisor.onHeartbeatAck(before, []);
    expect(agent.stateOf(offer)).toBe(HELD_STATE_ACCEPTED);
    agent.renew();
    expect((await agent.ended(offer)).outcome).toBe(Outcome.OUTCOME_SUCCEEDED);
  });

  test("says no end until then; a lease that was lost meanwhile discards it", async () => {
    let finish = () => {};
    const held = kindOf("held", async () => {
      await new Promise<void>((resolve) => {
        finish = resolve;
      });
      return { result: {}, outputs: [] };
    });
    const agent = await start([held]);
    agent.supervisor.onHelloAck(hello(), performance.now());
    const offers = [testOffer("held"), testOffer("held")] as const;
    const finishes: (() => void)[] = [];
    for (const offer of offers) {
      await agent.take(offer);
      agent.supervisor.onStart(offer);
      finish = () => {};
      const none = finish;
      await until("it waits", () => finish !== none);
      finishes.push(finish);
    }
    let asked = 0;
    agent.onComplete(async () => {
      asked += 1;
      return { applied: true };
    });
    agent.renew();
    standStill(3 * beatMs);
    for (const go of finishes) go();
    await until("both have ended", () => agent.supervisor.pressure().unacknowledgedEnds === 2);
    await new Promise((resolve) => setTimeout(resolve, beatMs));
    expect(asked).toBe(0);
    agent.loseLease(offers[0]);
    agent.renew();
    await agent.ended(offers[1]);
    expect(asked).toBe(1);
    expect(agent.resultOf(offers[0])).toBeUndefined();
  });
});
