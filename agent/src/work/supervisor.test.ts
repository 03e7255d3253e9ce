// The supervisor over real folders and real processes: which offers it takes, one run, and what is said in Complete.
import { existsSync, readdirSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { type CompleteRequest, Outcome, Refusal } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { createHost } from "../machine/host.ts";
import {
  createTestAgent,
  createTestDir,
  HELD_STATE_ACCEPTED,
  HELD_STATE_RUNNING,
  kindOf,
  noSpace,
  oneStep,
  removeTestDir,
  type TestAgent,
  testAllocation,
  testInput,
  testInventory,
  testOffer,
  until,
  writeProgram,
} from "../testing.ts";
import { type ControlPlane, StageFailure, type StageKind } from "./contract.ts";

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
const ffmpeg = (script: string) => writeProgram(dir, "ffmpeg", script);
describe("one attempt", () => {
  test("whose address for outputs has expired asks for a new one instead of losing the work", async () => {
    const stored: Buffer[] = [];
    const server = createServer((request, response) => {
      if (request.url?.endsWith("expired")) return void response.writeHead(403).end();
      if (request.method === "HEAD") return void response.writeHead(200, { "upload-offset": 0 }).end();
      request.on("data", (chunk: Buffer) => stored.push(chunk));
      request.on("end", () => response.writeHead(201).end());
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const { port } = server.address() as AddressInfo;
    let asked = 0;
    const ends: CompleteRequest[] = [];
    const control: ControlPlane = {
      answerOffer: () => {},
      sendProgress: () => {},
      complete: async (request) => {
        ends.push(request);
        return { applied: true };
      },
      placeOutputs: async ({ outputs }) => {
        asked += 1;
        const url = `http://127.0.0.1:${port}/${asked === 1 ? "expired" : "fresh"}`;
        return { targets: outputs.map(({ sha256 }) => ({ sha256, url })) };
      },
    };
    const kind = kindOf("file", async (context) => {
      writeFileSync(join(context.dir, "out.txt"), "made");
      return { result: {}, outputs: [{ name: "out.txt", path: "out.txt", mediaType: "text/plain" }] };
    });
    const agent = await start([kind], { control });
    const offer = testOffer("file");
    agent.supervisor.onOffer(offer);
    await until("it is taken", () => agent.stateOf(offer) === HELD_STATE_ACCEPTED);
    agent.supervisor.onStart(offer);
    await until("it is reported", () => ends.length === 1);
    server.close();
    expect(ends[0]).toMatchObject({ outcome: Outcome.OUTCOME_SUCCEEDED });
    expect(Buffer.concat(stored).toString()).toBe("made");
    expect(asked).toBe(2);
  });

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
    const agent = await start([kind], { inventory: { ...testInventory, gpus: [gpu] } });
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
