// The agent is killed with -9 again and again while real encodes run. Every step is started once, every attempt is reported,
// and nothing is reported again after it was answered. Kills fall anywhere: before the accept, between exit and result,
// between result and answer. The seed is printed, so a failing run can be looked at.
import { type ChildProcess, fork } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import {
  type CompleteRequest,
  HeldState,
  type Offer,
  Outcome,
  VerdictAction,
} from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import { afterEach, beforeEach, expect, test } from "vitest";
import { createHost } from "../machine/host.ts";
import { markedProcesses } from "../machine/proc.ts";
import { markerName } from "../machine/process.ts";
import { createTestDir, removeTestDir, testOffer, until, writeProgram } from "../testing.ts";
import type { FromAgent, ToAgent } from "../testing-messages.ts";

const agentFile = fileURLToPath(new URL("../testing-agent.ts", import.meta.url));
const attempts = 10;
const atOnce = 4;
const kills = 15;

let dir = "";
beforeEach(() => {
  dir = createTestDir();
});
afterEach(() => removeTestDir(dir));

/** A small control plane: what it knows survives the agent, as the database would. */
const createControl = (offers: readonly Offer[]) => {
  const started = new Set<string>();
  const reported = new Map<string, CompleteRequest>();
  const answered = new Set<string>();
  const faults: string[] = [];
  const paid: string[] = [];
  /** Stages whose payment was on disk when a life ended: no later life pays for them. */
  const paidBefore: Set<string>[] = [];
  let delayMs = () => 0;

  const serve = (agent: ChildProcess) => {
    const settled = new Set(paidBefore.flatMap((stages) => [...stages]));
    const send = (message: ToAgent) => {
      if (agent.connected) agent.send(message, () => {});
    };
    const offered = new Set<string>();
    const offerMore = () => {
      const open = [...offered, ...started].filter((id) => !reported.has(id)).length;
      for (const offer of offers
        .filter((o) => !started.has(o.attemptId) && !offered.has(o.attemptId))
        .slice(0, Math.max(0, atOnce - open))) {
        offered.add(offer.attemptId);
        send({ type: "offer", offer });
      }
    };
    agent.on("message", (message: FromAgent) => {
      if (message.type === "paid") {
        if (settled.has(message.attempt)) faults.push(`${message.attempt} was paid again`);
        settled.add(message.attempt);
        paid.push(message.attempt);
      }
      if (message.type === "hello") {
        const held = new Map(message.held.map((attempt) => [attempt.attemptId, attempt]));
        for (const id of started)
          if (!answered.has(id) && !held.has(id)) faults.push(`${id} was lost: started and not held after a restart`);
        const verdicts = message.held.map(({ attemptId, fence, state }) => ({
          attemptId,
          fence,
          action:
            state === HeldState.HELD_STATE_ENDED
              ? VerdictAction.VERDICT_ACTION_REPORT
              : VerdictAction.VERDICT_ACTION_CONTINUE,
        }));
        for (const { attemptId } of verdicts) started.add(attemptId);
        send({
          type: "verdicts",
          ack: {
            hostId: "h",
            epoch: 1n,
            heartbeatMs: 30_000,
            leaseMs: 20_000,
            verdicts,
            serverMs: 0n,
            protocol: 2,
            addresses: [],
          },
        });
        offerMore();
      }
      if (message.type === "answer") {
        const { attemptId, fence, accepted, reason } = message.answer;
        offered.delete(attemptId);
        if (!accepted) return faults.push(`${attemptId} was refused: ${reason}`);
        started.add(attemptId);
        send({ type: "start", attemptId, fence });
      }
      if (message.type === "complete") {
        const { request } = message;
        if (answered.has(request.attemptId)) faults.push(`${request.attemptId} was reported after it was answered`);
        const before = reported.get(request.attemptId);
        if (before && before.result !== request.result) faults.push(`${request.attemptId} changed its result`);
        reported.set(request.attemptId, request);
        setTimeout(() => {
          send({ type: "completed", attemptId: request.attemptId });
          offerMore();
        }, delayMs());
      }
      return undefined;
    });
  };
  return {
    serve,
    reported,
    faults,
    paid,
    /** Marks what the agent has certainly heard: its folder is gone. */
    noteAnswered: () => {
      const left = new Set(readdirSync(join(dir, "attempts")));
      for (const id of reported.keys()) if (!left.has(id)) answered.add(id);
    },
    /** Reads what the life that has just ended wrote down of its payments. */
    notePaid: () => {
      const isPaid = ({ attemptId }: Offer) => existsSync(join(dir, "attempts", attemptId, "once", "paid.json"));
      paidBefore.push(new Set(offers.filter(isPaid).map((offer) => offer.stage)));
    },
    setDelay: (next: () => number) => {
      delayMs = next;
    },
  };
};

const startAgent = (control: ReturnType<typeof createControl>): ChildProcess => {
  const agent = fork(agentFile, [dir], {
    serialization: "advanced",
    execArgv: [],
    env: { PATH: process.env.PATH, NODE_COMPILE_CACHE: join(dir, "compiled") },
    stdio: ["ignore", "ignore", "inherit", "ipc"],
  });
  control.serve(agent);
  return agent;
};

/** Small, seeded, good enough to spread the kills. */
const random = (seed: number) => () => {
  seed = (seed * 1_664_525 + 1_013_904_223) % 2 ** 32;
  return seed / 2 ** 32;
};

test("killed with -9 fifteen times: every step started once, every result delivered, none after its answer", async () => {
  writeProgram(
    dir,
    "ffmpeg",
    `for a; do last=$a; done; echo "$RENDERPLANE_ATTEMPT $last" >>${dir}/starts; exec ffmpeg "$@"`,
  );
  const seed = Number(process.env.TEST_SEED ?? Date.now() % 100_000);
  const next = random(seed);
  const offers = Array.from({ length: attempts }, (_, i) => testOffer("film", { stage: `stage-${i}` }));
  const control = createControl(offers);
  // Answers come late, so that kills also fall between a result and its answer.
  control.setDelay(() => next() * 300);
  let agent = startAgent(control);
  for (let kill = 0; kill < kills; kill++) {
    await new Promise((resolve) => setTimeout(resolve, 150 + next() * 900));
    agent.kill("SIGKILL");
    await until("the agent is dead", () => agent.signalCode !== null || agent.exitCode !== null);
    control.noteAnswered();
    control.notePaid();
    agent = startAgent(control);
  }
  control.setDelay(() => 0);
  await until(
    `all attempts are reported and forgotten (seed ${seed})`,
    () => control.reported.size === attempts && readdirSync(join(dir, "attempts")).length === 0,
    60_000,
  );
  agent.kill("SIGKILL");
  const starts = readFileSync(join(dir, "starts"), "utf8").trim().split("\n");
  expect({ seed, faults: control.faults }).toEqual({ seed, faults: [] });
  expect(starts.length).toBe(new Set(starts).size);
  expect(starts.length).toBe(attempts * 3);
  for (const request of control.reported.values()) {
    expect(request.outcome, request.failure?.message).toBe(Outcome.OUTCOME_SUCCEEDED);
    expect(JSON.parse(request.result)).toEqual({ frames: [1, 1, 1], paid: 1 });
    expect(request.outputs[0]?.sizeBytes).toBeGreaterThan(0n);
  }
  // `once` is done before it is written: a kill in that instant repeats it in the next life. That no life pays twice, and none for what
  // was written down, is told by the faults above.
  expect(new Set(control.paid).size).toBe(attempts);
  expect(createHost().endStrangers(join(dir, "attempts"), new Set())).toEqual([]);
}, 120_000);

test("F3: agent and shim killed with -9: the next agent ends what they left running and says that it is lost", async () => {
  writeProgram(dir, "ffmpeg", `touch ${dir}/started; sleep 60 & exec sleep 60`);
  const [offer] = [testOffer("film")];
  const control = createControl([offer]);
  const agent = startAgent(control);
  await until("it runs", () => existsSync(join(dir, "started")));
  const { pid } = JSON.parse(
    readFileSync(join(dir, "attempts", offer.attemptId, "steps", "one", "shim.json"), "utf8"),
  ) as { pid: number };
  agent.kill("SIGKILL");
  process.kill(pid, "SIGKILL");
  await until("the agent is dead", () => agent.signalCode !== null);
  const marked = () => markedProcesses(markerName, join(dir, "attempts")).length;
  expect(marked()).toBeGreaterThan(0);
  const next = startAgent(control);
  await until("it is reported", () => control.reported.size === 1, 30_000);
  expect(marked()).toBe(0);
  expect(control.reported.get(offer.attemptId)).toMatchObject({ outcome: Outcome.OUTCOME_FAILED });
  expect(control.faults).toEqual([]);
  next.kill("SIGKILL");
}, 60_000);
