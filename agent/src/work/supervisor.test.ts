// The supervisor over real folders and real processes: admission, one run, every way to end, and what is said in Complete.
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Outcome, Refusal, VerdictAction } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { createHost } from "../machine/host.ts";
import { markedProcesses } from "../machine/proc.ts";
import { markerName } from "../machine/process.ts";
import {
  createTestAgent,
  createTestDir,
  HELD_STATE_ACCEPTED,
  HELD_STATE_ENDED,
  HELD_STATE_RUNNING,
  kindOf,
  removeTestDir,
  type TestAgent,
  testAllocation,
  testInput,
  testInventory,
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
const oneStep = kindOf("one", async (context) => {
  const end = await context.process("step", { program: "ffmpeg", args: [] });
  return { result: { exit: end.exitCode, stdout: end.stdout }, outputs: [] };
});

describe("one attempt", () => {
  test("is journaled, run, reported once with what it used, and its folder goes", async () => {
    ffmpeg("echo made");
    const agent = await start([oneStep]);
    const offer = testOffer("one");
    expect(await agent.take(offer)).toMatchObject({ accepted: true, fence: offer.fence });
    expect(existsSync(join(dir, "attempts", offer.attemptId, "spec.json"))).toBe(true);
    expect(agent.stateOf(offer)).toBe(HELD_STATE_ACCEPTED);
    agent.supervisor.onStart(offer);
    expect(agent.stateOf(offer)).toBe(HELD_STATE_RUNNING);
    const result = await agent.ended(offer);
    expect(result.outcome).toBe(Outcome.OUTCOME_SUCCEEDED);
    expect(JSON.parse(result.result)).toEqual({ exit: 0, stdout: "made\n" });
    const seconds = Number(result.elapsedMs) / 1000;
    expect(result.usage).toHaveLength(1);
    expect(result.usage[0]).toMatchObject({ service: "cpu_compute", provider: "host", unit: "core_second" });
    expect(result.usage[0]?.quantity).toBeCloseTo(2 * seconds, 1);
    await until("the folder is gone", () => readdirSync(join(dir, "attempts")).length === 0);
    expect(agent.supervisor.held()).toEqual([]);
    expect(agent.results).toHaveLength(1);
  });

  test("a GPU is billed by the second, shown to the program, and the stage's own uses count once for each key", async () => {
    ffmpeg('echo "$CUDA_VISIBLE_DEVICES"');
    const gpu = { uuid: "GPU-1", name: "x", memoryBytes: 10n, driverVersion: "1", workingEncoders: [] };
    const kind = kindOf("gpu", async (context) => {
      const end = await context.process("step", { program: "ffmpeg", args: [] });
      context.usage({ service: "tts", provider: "espeak", unit: "character", quantity: 5 });
      context.usage({ service: "tts", provider: "espeak", unit: "character", quantity: 9 });
      return { result: { saw: end.stdout, gpu: context.gpuUuid }, outputs: [] };
    });
    const agent = createTestAgent(dir, [kind], { inventory: { ...testInventory, gpus: [gpu] } });
    agents.push(agent);
    await agent.supervisor.start();
    const result = await agent.run(testOffer("gpu", { allocation: { ...testAllocation, gpuUuid: "GPU-1" } }));
    expect(JSON.parse(result.result)).toEqual({ saw: "GPU-1\n", gpu: "GPU-1" });
    expect(result.usage.map((use) => `${use.service}.${use.unit}`)).toEqual([
      "tts.character",
      "cpu_compute.core_second",
      "gpu_compute.gpu_second",
    ]);
    expect(result.usage[0]?.quantity).toBe(9);
  });

  test("a named failure keeps its class, its evidence is cut in front; anything else is a bug of the agent", async () => {
    const named = kindOf("named", async () => {
      throw new StageFailure("input_corrupt", "clip.mp4 cannot be read", {
        evidence: `${"x".repeat(99_999)}END`,
        exit: "1",
      });
    });
    const bug = kindOf("bug", async () => {
      throw new TypeError("undefined is not a function");
    });
    const agent = await start([named, bug]);
    const failed = await agent.run(testOffer("named"));
    expect(failed.outcome).toBe(Outcome.OUTCOME_FAILED);
    expect(failed.failure).toMatchObject({
      failureClass: "input_corrupt",
      message: "clip.mp4 cannot be read",
      exit: "1",
    });
    expect(failed.failure?.evidence.endsWith("xEND")).toBe(true);
    expect(Buffer.byteLength(failed.failure?.evidence ?? "")).toBeLessThanOrEqual(16 * 1024);
    const broken = await agent.run(testOffer("bug"));
    expect(broken.failure).toMatchObject({ failureClass: "agent_bug" });
    expect(broken.failure?.evidence).toContain("supervisor.test.ts");
  });

  test("a missing program is named with the command that installs it", async () => {
    const agent = await start([oneStep], {
      programs: { ffmpeg: "no-such-ffmpeg", ffprobe: "ffprobe", "espeak-ng": "espeak-ng" },
    });
    const result = await agent.run(testOffer("one"));
    expect(result.failure?.failureClass).toBe("missing_program");
    expect(result.failure?.message).toContain("apt-get install ffmpeg");
    expect(result.failure?.message).toContain("FFMPEG_PATH");
  });

  test("a result above 64 KiB and an output outside the work folder are bugs, not results", async () => {
    const big = kindOf("big", async () => ({ result: { text: "x".repeat(70_000) }, outputs: [] }));
    const outside = kindOf("outside", async () => ({
      result: {},
      outputs: [{ name: "a.txt", path: "../spec.json", mediaType: "text/plain" }],
    }));
    const agent = await start([big, outside]);
    expect((await agent.run(testOffer("big"))).failure?.failureClass).toBe("agent_bug");
    expect((await agent.run(testOffer("outside"))).failure?.message).toContain("outside the work folder");
  });

  test("progress is at most two messages a second, newest last, and never falls", async () => {
    const kind = kindOf("busy", async (context) => {
      for (let i = 0; i <= 60; i++) {
        context.progress({ fraction: i === 30 ? 0 : i / 100, step: `step ${i}` });
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      return { result: {}, outputs: [] };
    });
    const agent = await start([kind]);
    await agent.run(testOffer("busy"));
    expect(agent.progress.length).toBeGreaterThanOrEqual(2);
    expect(agent.progress.length).toBeLessThanOrEqual(5);
    const fractions = agent.progress.map((message) => message.fraction);
    expect(fractions).toEqual([...fractions].sort((a, b) => a - b));
  });

  test("FFmpeg's own progress file becomes the attempt's progress, weighted by the step's share", async () => {
    ffmpeg(
      'for a in "$@"; do [ "$p" = -progress ] && f="/$(echo "$a" | cut -d/ -f2-)"; p=$a; done; for t in 1000000 2000000; do printf "out_time_us=$t\\nprogress=continue\\n" >>"$f"; sleep 0.6; done',
    );
    const kind = kindOf("shares", async (context) => {
      const progress = { label: "rendering", totalMs: 4_000, from: 0.5, to: 1 };
      await context.process("step", { program: "ffmpeg", args: ["-i", "x"], progress });
      return { result: {}, outputs: [] };
    });
    const agent = await start([kind]);
    await agent.run(testOffer("shares"));
    expect(agent.progress.length).toBeGreaterThan(0);
    expect(agent.progress[0]?.step).toBe("rendering");
    expect(agent.progress.at(-1)?.fraction).toBeCloseTo(0.75, 5);
  });
});

describe("offers are refused with a reason", () => {
  test("unknown kind, no room, invalid spec, held under another fence", async () => {
    const agent = await start([oneStep]);
    expect(await agent.take(testOffer("render-8k"))).toMatchObject({
      accepted: false,
      refusal: Refusal.REFUSAL_MISSING_CAPABILITY,
      reason: 'kind: this agent cannot run "render-8k"',
    });
    expect(await agent.take(testOffer("one", { allocation: { ...testAllocation, cores: 65 } }))).toMatchObject({
      refusal: Refusal.REFUSAL_NO_CAPACITY,
      reason: "cores: 65 wanted, 0 of 64 in use",
    });
    for (const bad of [
      { attemptId: "../../etc" },
      { timeoutMs: 0 },
      { params: "[]" },
      { request: "{" },
      { inputs: [testInput("file:///etc/passwd", Buffer.from("x"))] },
    ]) {
      const offer = testOffer("one", bad);
      expect(await agent.take(offer)).toMatchObject({ accepted: false, refusal: Refusal.REFUSAL_SPEC_INVALID });
    }
    const offer = testOffer("one");
    expect((await agent.take(offer)).accepted).toBe(true);
    expect((await agent.take(offer)).accepted).toBe(true);
    expect(await agent.take({ ...offer, fence: 999n })).toMatchObject({ refusal: Refusal.REFUSAL_ALREADY_HELD });
    expect(readdirSync(join(dir, "attempts"))).toEqual([offer.attemptId]);
  });

  test("two offers at once do not both get the last room", async () => {
    const agent = await start([oneStep]);
    const offers = [1, 2].map(() => testOffer("one", { allocation: { ...testAllocation, cores: 40 } }));
    const answers = await Promise.all(offers.map((offer) => agent.take(offer)));
    expect(answers.filter((answer) => answer.accepted)).toHaveLength(1);
  });

  test("a full disk refuses before anything is written, and a journal that cannot be written refuses too", async () => {
    const host = createHost();
    const low = { ...host, disk: { ...host.disk, freeBytes: async () => 300 * 1024 ** 2 } };
    const agent = await start([oneStep], { host: low });
    const offer = testOffer("one", { allocation: { ...testAllocation, scratchBytes: 100n * 1024n ** 2n } });
    expect(await agent.take(offer)).toMatchObject({
      refusal: Refusal.REFUSAL_DISK_LOW,
      reason: "scratch: 300 MiB free, 376 MiB wanted",
    });
    const full = { ...host, disk: { ...host.disk, writeDurable: noSpace } };
    const other = await start([oneStep], { host: full });
    expect(await other.take(testOffer("one"))).toMatchObject({ refusal: Refusal.REFUSAL_DISK_LOW });
    expect(readdirSync(join(dir, "attempts"))).toEqual([]);
  });

  test("a stopping agent takes nothing", async () => {
    const agent = await start([oneStep]);
    await agent.supervisor.stop();
    expect(await agent.take(testOffer("one"))).toMatchObject({ refusal: Refusal.REFUSAL_DRAINING });
  });
});

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

describe("results", () => {
  test("are repeated until they are answered, and held as ENDED meanwhile", async () => {
    ffmpeg("exit 0");
    const agent = await start([oneStep]);
    let tries = 0;
    agent.onComplete(async () => {
      tries += 1;
      if (tries < 3) throw new RenderplaneError("unavailable", "down");
      return { applied: true };
    });
    const offer = testOffer("one");
    await agent.take(offer);
    agent.supervisor.onStart(offer);
    await until("it waits", () => tries >= 1);
    expect(agent.stateOf(offer)).toBe(HELD_STATE_ENDED);
    // A new session wakes the retry.
    agent.supervisor.onHelloAck(
      helloAck([{ ...offer, action: VerdictAction.VERDICT_ACTION_REPORT }]),
      performance.now(),
    );
    await agent.ended(offer);
    expect(tries).toBe(3);
    await until("it is forgotten", () => agent.supervisor.held().length === 0);
  });

  test("that are refused for their form are replaced by a short one; unknown ones are buried", async () => {
    ffmpeg("exit 0");
    const agent = await start([oneStep]);
    const seen: string[] = [];
    agent.onComplete(async (request) => {
      seen.push(request.failure?.failureClass ?? "none");
      if (seen.length === 1) throw new RenderplaneError("invalid_request", "result: not valid");
      return { applied: true };
    });
    await agent.run(testOffer("one"));
    expect(seen).toEqual(["none", "agent_bug"]);
    agent.onComplete(async () => {
      throw new RenderplaneError("not_found", "no such attempt");
    });
    const offer = testOffer("one");
    await agent.take(offer);
    agent.supervisor.onStart(offer);
    await until("it is buried", () => existsSync(join(dir, "dead", offer.attemptId)));
    expect(agent.supervisor.held()).toEqual([]);
  });

  test("a lost lease while the result waits drops the result", async () => {
    ffmpeg("exit 0");
    const agent = await start([oneStep]);
    agent.onComplete(async () => {
      throw new RenderplaneError("unavailable", "down");
    });
    const offer = testOffer("one");
    await agent.take(offer);
    agent.supervisor.onStart(offer);
    await until("it waits", () => agent.stateOf(offer) === HELD_STATE_ENDED);
    agent.loseLease(offer);
    expect(agent.supervisor.held()).toEqual([]);
    expect(readdirSync(join(dir, "attempts"))).toEqual([]);
  });
});

describe("the journal", () => {
  test("a damaged folder goes to dead/ with its processes ended, and the others are read", async () => {
    ffmpeg(`touch ${dir}/started; sleep 60`);
    const kind = kindOf("one", oneStep.run);
    const first = await start([kind]);
    const [bad, good] = [testOffer("one"), testOffer("one")];
    await first.take(bad);
    await first.take(good);
    first.supervisor.onStart(bad);
    await until("it runs", () => existsSync(join(dir, "started")));
    await first.supervisor.stop();
    const spec = join(dir, "attempts", bad.attemptId, "spec.json");
    writeFileSync(spec, readFileSync(spec, "utf8").replace('"message":"', '"message":"AAAA'));
    mkdirSync(join(dir, "attempts", "no-spec"));
    const second = await start([kind]);
    expect(second.supervisor.held().map((held) => held.attemptId)).toEqual([good.attemptId]);
    expect(readdirSync(join(dir, "dead")).sort()).toEqual([bad.attemptId, "no-spec"].sort());
    await until("its processes are gone", () => marked().length === 0);
  });

  test("after a reboot a started attempt is host_lost and an accepted one was interrupted", async () => {
    ffmpeg("sleep 0.5");
    const first = await start([oneStep]);
    const [begun, waiting] = [testOffer("one"), testOffer("one")];
    await first.take(begun);
    await first.take(waiting);
    first.supervisor.onStart(begun);
    await first.supervisor.stop();
    const host = { ...createHost(), bootId: "after-the-reboot" };
    const second = await start([oneStep], { host });
    expect((await second.ended(begun)).failure?.failureClass).toBe("host_lost");
    expect((await second.ended(waiting)).outcome).toBe(Outcome.OUTCOME_INTERRUPTED);
  });

  test("started work whose lease has run out waits for the verdict before anything new is begun", async () => {
    ffmpeg(`echo start >>${dir}/starts; sleep 60`);
    const two = kindOf("two", async (context) => {
      const first = await context.process("first", { program: "ffmpeg", args: [] });
      return { result: { signal: first.signal }, outputs: [] };
    });
    const first = await start([two]);
    const offer = testOffer("two");
    await first.take(offer);
    first.supervisor.onStart(offer);
    await until("it runs", () => existsSync(join(dir, "starts")));
    await first.supervisor.stop();
    writeFileSync(join(dir, "attempts", offer.attemptId, "lease"), "1\n");
    const second = await start([two]);
    expect(second.stateOf(offer)).toBe(HELD_STATE_RUNNING);
    expect(marked().length).toBeGreaterThan(0);
    second.supervisor.onHelloAck(
      helloAck([{ ...offer, action: VerdictAction.VERDICT_ACTION_ABANDON }]),
      performance.now(),
    );
    await until("it is forgotten", () => second.supervisor.held().length === 0);
    expect(marked()).toEqual([]);
    expect(readFileSync(join(dir, "starts"), "utf8")).toBe("start\n");
  });

  test("CONTINUE starts what was accepted and goes on with what was running", async () => {
    ffmpeg("exit 0");
    const first = await start([oneStep]);
    const offer = testOffer("one");
    await first.take(offer);
    await first.supervisor.stop();
    const second = await start([oneStep]);
    expect(second.stateOf(offer)).toBe(HELD_STATE_ACCEPTED);
    second.supervisor.onHelloAck(
      helloAck([{ ...offer, action: VerdictAction.VERDICT_ACTION_CONTINUE }]),
      performance.now(),
    );
    expect((await second.ended(offer)).outcome).toBe(Outcome.OUTCOME_SUCCEEDED);
  });
});

const noSpace = (): never => {
  throw Object.assign(new Error("ENOSPC: no space left on device, write"), { code: "ENOSPC" });
};
const helloAck = (verdicts: { attemptId: string; fence: bigint; action: VerdictAction }[]) => ({
  hostId: "host",
  epoch: 1n,
  heartbeatMs: 200,
  leaseMs: 20_000,
  verdicts,
  serverMs: 0n,
});
