// What outlives the agent: results that are repeated until answered, and folders that the next agent reads.
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Worker } from "node:worker_threads";
import { CompleteRequest, Outcome, VerdictAction } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
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
  helloAck,
  kindOf,
  oneStep,
  removeTestDir,
  type TestAgent,
  testOffer,
  until,
  writeProgram,
} from "../testing.ts";
import type { StageKind } from "./contract.ts";
import { openRecord } from "./record.ts";

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

  test("that are refused twice for their form are put away and replaced by a short one; unknown ones are buried", async () => {
    ffmpeg("exit 0");
    const agent = await start([oneStep]);
    const seen: string[] = [];
    agent.onComplete(async (request) => {
      seen.push(request.failure?.failureClass ?? "none");
      if (seen.length <= 2) throw new RenderplaneError("invalid_request", "result: not valid");
      return { applied: true };
    });
    const refused = testOffer("one");
    await agent.run(refused);
    expect(seen).toEqual(["none", "none", "agent_bug"]);
    const kept = readFileSync(join(dir, "dead", `${refused.attemptId}.result.json`));
    expect(CompleteRequest.decode(openRecord(kept).message)).toMatchObject({ outcome: Outcome.OUTCOME_SUCCEEDED });
    agent.onComplete(async () => {
      throw new RenderplaneError("not_found", "no such attempt");
    });
    const offer = testOffer("one");
    await agent.take(offer);
    agent.supervisor.onStart(offer);
    await until("it is buried", () => existsSync(join(dir, "dead", offer.attemptId)));
    expect(agent.supervisor.held()).toEqual([]);
  });

  test("that are too large for the wire are replaced by a short one, and not repeated for ever", async () => {
    ffmpeg("exit 0");
    const agent = await start([oneStep]);
    const seen: string[] = [];
    agent.onComplete(async (request) => {
      seen.push(request.failure?.failureClass ?? "none");
      if (seen.length <= 2) throw new RenderplaneError("body_too_large", "the report is 300000 bytes");
      return { applied: true };
    });
    await agent.run(testOffer("one"));
    expect(seen).toEqual(["none", "none", "agent_bug"]);
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
  test("a folder whose removal was cut short is no attempt: nothing of it is run or paid again", async () => {
    ffmpeg(`echo start >>${dir}/starts`);
    const removed: string[] = [];
    const host = createHost();
    const first = await start([oneStep], { host });
    const offer = testOffer("one");
    const at = join(dir, "attempts", offer.attemptId);
    // Many files, so that a removal in place takes a while; a result that is gone while the folder is still there is the fault.
    await first.take(offer);
    for (let i = 0; i < 3_000; i++) writeFileSync(join(at, "once", `${i}.json`), "1");
    const looker = new Worker(
      `const { existsSync } = require("node:fs"); const { workerData: at, parentPort } = require("node:worker_threads");
       parentPort.postMessage("looks");
       let half = false;
       while (existsSync(at)) if (existsSync(at + "/result.json")) break;
       while (existsSync(at)) if (!existsSync(at + "/result.json") || !existsSync(at + "/spec.json")) { half = existsSync(at); if (half) break; }
       parentPort.postMessage(half);`,
      { eval: true, workerData: at },
    );
    const seen = new Promise<boolean>((resolve) =>
      looker.on("message", (message) => (message === "looks" ? removed.push("looks") : resolve(message))),
    );
    await until("somebody looks", () => removed.length === 1);
    first.supervisor.onStart(offer);
    await first.ended(offer);
    expect(await seen).toBe(false);
    // Killed right after the first step of a removal: the next agent finishes it.
    mkdirSync(join(dir, "removed"), { recursive: true });
    const second = testOffer("one");
    await first.take(second);
    await first.supervisor.stop();
    renameSync(join(dir, "attempts", second.attemptId), join(dir, "removed", second.attemptId));
    const next = await start([oneStep]);
    expect(next.supervisor.held()).toEqual([]);
    expect(readdirSync(join(dir, "removed"))).toEqual([]);
  });

  test("a note of the start that is empty (a kill or a power cut while it was written) loses no work", async () => {
    ffmpeg(`echo start >>${dir}/starts; while [ ! -e ${dir}/go ]; do sleep 0.05; done`);
    const first = await start([oneStep]);
    const offer = testOffer("one");
    await first.take(offer);
    first.supervisor.onStart(offer);
    await until("it runs", () => existsSync(join(dir, "starts")));
    await first.supervisor.stop();
    writeFileSync(join(dir, "attempts", offer.attemptId, "started"), "");
    const second = await start([oneStep]);
    expect(second.stateOf(offer)).toBe(HELD_STATE_RUNNING);
    writeFileSync(join(dir, "go"), "");
    expect((await second.ended(offer)).outcome).toBe(Outcome.OUTCOME_SUCCEEDED);
    expect(readFileSync(join(dir, "starts"), "utf8")).toBe("start\n");
  });

  test("files that an earlier life of the same attempt left behind answer for nothing", async () => {
    ffmpeg("exit 0");
    const agent = await start([oneStep]);
    const offer = testOffer("one");
    const step = join(dir, "attempts", offer.attemptId, "steps", "step");
    mkdirSync(step, { recursive: true });
    writeFileSync(join(step, "exit.json"), '{"status":3,"elapsedMs":1,"endedBy":""}');
    expect(JSON.parse((await agent.run(offer)).result)).toMatchObject({ exit: 0 });
  });

  test("adopted work that this agent cannot go on with is ended before it is reported", async () => {
    ffmpeg(`touch ${dir}/started; sleep 60`);
    const first = await start([oneStep]);
    const offer = testOffer("one");
    await first.take(offer);
    first.supervisor.onStart(offer);
    await until("it runs", () => existsSync(join(dir, "started")));
    await first.supervisor.stop();
    const second = createTestAgent(dir, []);
    agents.push(second);
    let left = -1;
    second.onComplete(async () => {
      left = marked().length;
      return { applied: true };
    });
    await second.supervisor.start();
    expect((await second.ended(offer)).failure?.message).toContain("cannot run the stage kind one any more");
    expect(left).toBe(0);
  });

  test("a folder that can neither be read nor put away does not keep the agent from the others", async () => {
    ffmpeg("exit 0");
    const first = await start([oneStep]);
    const good = testOffer("one");
    await first.take(good);
    await first.supervisor.stop();
    mkdirSync(join(dir, "attempts", "no-spec"));
    writeFileSync(join(dir, "dead"), "a file in the way");
    const second = await start([oneStep]);
    expect(second.supervisor.held().map((held) => held.attemptId)).toEqual([good.attemptId]);
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
