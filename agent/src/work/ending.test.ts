// Every way to end an attempt from outside or by a full disk: what is left running (nothing), and what is reported.
import { existsSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Outcome, Refusal } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { createHost } from "../machine/host.ts";
import { markedProcesses } from "../machine/proc.ts";
import { markerName } from "../machine/process.ts";
import {
  createTestAgent,
  createTestDir,
  kindOf,
  noSpace,
  oneStep,
  removeTestDir,
  type TestAgent,
  testOffer,
  testTimings,
  until,
  writeProgram,
} from "../testing.ts";
import { type StageContext, StageFailure, type StageKind } from "./contract.ts";

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
const marked = () => markedProcesses(markerName, join(dir, "attempts"));
const ffmpeg = (script: string) => writeProgram(dir, "ffmpeg", script);
describe("an attempt is ended", () => {
  const sleeper = kindOf("sleeper", async (context) => {
    await context.process("sleep", { program: "ffmpeg", args: [] });
    return { result: {}, outputs: [] };
  });
  const isRunning = () => existsSync(join(dir, "started"));

  test("by cancellation: program, grandchildren and those that left the session are gone before it is reported", async () => {
    ffmpeg(`setsid sleep 60 & sleep 60 & touch ${dir}/started; wait`);
    const agent = await start([sleeper]);
    const offer = testOffer("sleeper");
    await agent.take(offer);
    agent.supervisor.onStart(offer);
    await until("it runs", isRunning);
    let left = -1;
    agent.onComplete(async () => {
      left = marked().length;
      return { applied: true };
    });
    agent.cancel(offer);
    agent.cancel(offer);
    const result = await agent.ended(offer);
    expect(result.outcome).toBe(Outcome.OUTCOME_CANCELLED);
    expect(left).toBe(0);
    expect(result.usage[0]?.quantity).toBeGreaterThan(0);
    expect(agent.results).toHaveLength(1);
  });

  test("given back: a running one is ended first, an accepted and an unknown one are answered too, all as interrupted", async () => {
    ffmpeg(`sleep 60 & touch ${dir}/started; wait`);
    const agent = await start([sleeper]);
    const [running, accepted, unknown] = [testOffer("sleeper"), testOffer("sleeper"), testOffer("sleeper")];
    for (const offer of [running, accepted]) await agent.take(offer);
    agent.supervisor.onStart(running);
    await until("it runs", isRunning);
    let left = -1;
    agent.onComplete(async (request) => {
      if (request.attemptId === running.attemptId) left = marked().length;
      return { applied: true };
    });
    for (const offer of [running, accepted, unknown]) agent.giveBack(offer);
    for (const offer of [running, accepted, unknown])
      expect(await agent.ended(offer)).toMatchObject({ outcome: Outcome.OUTCOME_INTERRUPTED, fence: offer.fence });
    expect(left).toBe(0);
    expect(agent.resultOf(running)?.usage[0]?.quantity).toBeGreaterThan(0);
  });

  test("by a lost lease: killed, discarded, and nothing is reported", async () => {
    ffmpeg(`touch ${dir}/started; sleep 60`);
    const agent = await start([sleeper]);
    const offer = testOffer("sleeper");
    await agent.take(offer);
    agent.supervisor.onStart(offer);
    await until("it runs", isRunning);
    agent.loseLease({ ...offer, fence: 12345n });
    agent.loseLease(offer);
    await until("it is forgotten", () => agent.supervisor.held().length === 0);
    expect(marked()).toEqual([]);
    expect(readdirSync(join(dir, "attempts"))).toEqual([]);
    expect(agent.results).toEqual([]);
  });

  test("by its time limit, counted from Start, with the limit in the message", async () => {
    ffmpeg("sleep 60");
    const agent = await start([sleeper]);
    const result = await agent.run(testOffer("sleeper", { timeoutMs: 700 }));
    expect(result).toMatchObject({ outcome: Outcome.OUTCOME_FAILED, failure: { failureClass: "timeout" } });
    expect(result.failure?.message).toContain("0.7 s");
    expect(Number(result.elapsedMs)).toBeGreaterThanOrEqual(700);
    expect(marked()).toEqual([]);
  });

  test("by the agent itself when its lease can no longer be trusted; renewals keep it", async () => {
    ffmpeg(`touch ${dir}/started; sleep 60`);
    const timings = { ...testTimings, trustMarginMs: 400 };
    const agent = await start([sleeper], { timings });
    const offer = testOffer("sleeper", { leaseMs: 1_400 });
    await agent.take(offer);
    agent.supervisor.onStart(offer);
    await until("it runs", isRunning);
    const keepUntil = performance.now() + 2_000;
    while (performance.now() < keepUntil) {
      agent.renew();
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    expect(agent.results).toEqual([]);
    const result = await agent.ended(offer);
    expect(result.outcome).toBe(Outcome.OUTCOME_INTERRUPTED);
    expect(performance.now() - keepUntil).toBeLessThan(1_400 + 500);
    expect(marked()).toEqual([]);
  });

  test("an accepted attempt that is never started is forgotten after one lease", async () => {
    const agent = await start([sleeper]);
    const offer = testOffer("sleeper", { leaseMs: 300 });
    await agent.take(offer);
    await until("it is forgotten", () => agent.supervisor.held().length === 0);
    expect(agent.results).toEqual([]);
    // A late Start finds nothing to start.
    agent.supervisor.onStart(offer);
    expect(agent.supervisor.held()).toEqual([]);
  });

  test("a stop of an attempt that is not here is answered, so that the job does not wait for its lease", async () => {
    const agent = await start([sleeper]);
    const offer = testOffer("sleeper");
    agent.cancel(offer);
    expect(await agent.ended(offer)).toMatchObject({ outcome: Outcome.OUTCOME_CANCELLED, fence: offer.fence });
    const accepted = testOffer("sleeper");
    await agent.take(accepted);
    agent.cancel(accepted);
    expect((await agent.ended(accepted)).outcome).toBe(Outcome.OUTCOME_CANCELLED);
  });

  test("a stage that ignores its signal is given up, its late result is not reported", async () => {
    let finish = () => {};
    const deaf = kindOf("deaf", async () => {
      await new Promise<void>((resolve) => {
        finish = resolve;
      });
      return { result: {}, outputs: [] };
    });
    const agent = await start([deaf], { timings: { ...testTimings, killAfterMs: 0 } });
    const offer = testOffer("deaf", { timeoutMs: 100 });
    const result = await agent.run(offer);
    expect(result.failure?.failureClass).toBe("timeout");
    finish();
    expect(agent.results).toHaveLength(1);
  }, 15_000);

  test("steps that run beside a failed one are ended before the failure is reported", async () => {
    ffmpeg(`touch ${dir}/started; sleep 60`);
    const beside = kindOf("beside", async (context: StageContext) => {
      const long = context.process("long", { program: "ffmpeg", args: [] });
      const short = until("it runs", isRunning).then(() => {
        throw new StageFailure("output_invalid", "the other one failed");
      });
      await Promise.all([long, short]);
      return { result: {}, outputs: [] };
    });
    const agent = await start([beside]);
    expect((await agent.run(testOffer("beside"))).failure?.failureClass).toBe("output_invalid");
    expect(marked()).toEqual([]);
  });
});

describe("the disk fills up", () => {
  test("while a stage works: disk_full, and the result still gets out", async () => {
    const kind = kindOf("once", async (context) => {
      await context.once("paid", async () => 1);
      return { result: {}, outputs: [] };
    });
    const host = createHost();
    const disk = {
      ...host.disk,
      writeDurable: (path: string, text: string) =>
        path.includes("once") ? noSpace() : host.disk.writeDurable(path, text),
    };
    const agent = await start([kind], { host: { ...host, disk } });
    const result = await agent.run(testOffer("once"));
    expect(result.failure).toMatchObject({ failureClass: "disk_full" });
  });

  test("so far that not even the result can be written: the attempt's own files make room, and at worst it goes from memory", async () => {
    ffmpeg("exit 0");
    const host = createHost();
    let tries = 0;
    const writeDurable = (path: string, text: string) => {
      if (!path.endsWith("result.json")) return host.disk.writeDurable(path, text);
      tries += 1;
      if (existsSync(join(path, "..", "work"))) return noSpace();
      return host.disk.writeDurable(path, text);
    };
    const agent = await start([oneStep], { host: { ...host, disk: { ...host.disk, writeDurable } } });
    expect((await agent.run(testOffer("one"))).outcome).toBe(Outcome.OUTCOME_SUCCEEDED);
    expect(tries).toBe(2);
    const never = (path: string, text: string) =>
      path.endsWith("result.json") ? noSpace() : host.disk.writeDurable(path, text);
    const other = await start([oneStep], { host: { ...host, disk: { ...host.disk, writeDurable: never } } });
    expect((await other.run(testOffer("one"))).outcome).toBe(Outcome.OUTCOME_SUCCEEDED);
  });
});

describe("a drain", () => {
  const sleeper = kindOf("sleeper", async (context) => {
    await context.process("sleep", { program: "ffmpeg", args: [] });
    return { result: {}, outputs: [] };
  });

  test("takes nothing more, says so in heartbeats, and ends when the work and its answers are through", async () => {
    ffmpeg(`touch ${dir}/started; while [ ! -e ${dir}/go ]; do sleep 0.05; done`);
    const agent = await start([sleeper]);
    const offer = testOffer("sleeper");
    await agent.take(offer);
    agent.supervisor.onStart(offer);
    await until("it runs", () => existsSync(join(dir, "started")));
    expect(agent.supervisor.pressure()).toEqual({ unacknowledgedEnds: 0, isDraining: false });
    let isDrained = false;
    const draining = agent.supervisor.drain(60_000).then(() => {
      isDrained = true;
    });
    expect(await agent.take(testOffer("sleeper"))).toMatchObject({ refusal: Refusal.REFUSAL_DRAINING });
    expect(agent.supervisor.pressure().isDraining).toBe(true);
    expect(isDrained).toBe(false);
    writeFileSync(join(dir, "go"), "");
    await draining;
    expect(agent.resultOf(offer)?.outcome).toBe(Outcome.OUTCOME_SUCCEEDED);
    expect(agent.supervisor.held()).toEqual([]);
  });

  test("gives back what is left when its time is up", async () => {
    ffmpeg("sleep 60");
    const agent = await start([sleeper]);
    const offer = testOffer("sleeper");
    await agent.take(offer);
    agent.supervisor.onStart(offer);
    await agent.supervisor.drain(300);
    expect(agent.resultOf(offer)?.outcome).toBe(Outcome.OUTCOME_INTERRUPTED);
    expect(marked()).toEqual([]);
  });
});
