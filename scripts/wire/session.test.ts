// A session as the agent lives it: messages both ways, what its leases count from, and how it comes back after a restart of the
// control plane or a renewal of its certificate.
import {
  HeldState,
  type HelloAck,
  Outcome,
  Refusal,
  VerdictAction,
} from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { inventory, serialOf, until } from "../../control-plane/src/grpc/testing.ts";
import { createFakeOperations, makeId, offer } from "../../control-plane/src/grpc/testing-operations.ts";
import { openAuthority } from "../../control-plane/src/identity/authority.ts";
import { failure, fastPace, recorder, type Stage, setStage } from "./stage.ts";

let stage: Stage;
beforeEach(async () => {
  stage = await setStage();
});
afterEach(() => stage.clear());

describe("a session", () => {
  test("offer, answer, start, progress, heartbeat, stop: each reaches the other side", async () => {
    const { edge, link, supervisor } = await stage.enrolled();
    const hostId = link.hostId() ?? "";
    const given = offer();
    edge.operations.attempts.set(given.attemptId, { fence: given.fence, state: "offered" });
    edge.operations.hosts.get(hostId)?.offers.push(given);
    edge.ring(hostId);
    await until("the offer arrives", () => supervisor.of("offer").length === 1);
    expect(supervisor.of("offer")[0]).toMatchObject({ attemptId: given.attemptId, kind: "noop", leaseMs: 600 });
    const { attemptId, fence } = given;
    link.answerOffer({ attemptId, fence, accepted: true, refusal: Refusal.REFUSAL_UNSPECIFIED, reason: "" });
    await until("the start arrives", () => supervisor.of("start").length === 1);
    supervisor.attempts = [{ attemptId, fence, state: HeldState.HELD_STATE_RUNNING }];
    link.sendProgress({ attemptId, fence, fraction: 0.25, speed: 1, etaMs: 4000n, step: "drawing" });
    await until("it is passed on", () => edge.progress.length === 1);
    await until("it is stored", () => edge.operations.renewals.some((r) => r[0]?.progress === 0.25));
    edge.operations.attempts.set(attemptId, { fence: 2n, state: "offered" });
    const stops = () => supervisor.of("beat").flatMap((beat) => (beat as { stops: unknown[] }).stops);
    await until("the lost lease is told", () => stops().length > 0);
    expect(stops()[0]).toMatchObject({ attemptId, fence });
  });

  test("leases count from when a heartbeat was sent, never from its acknowledgement", async () => {
    const { authority } = await openAuthority(undefined);
    const operations = createFakeOperations(authority);
    const slowMs = 150;
    const recordHealth: typeof operations.recordHealth = async (seen) => {
      await new Promise((resolve) => setTimeout(resolve, slowMs));
      return operations.recordHealth(seen);
    };
    const edge = await stage.serve({ authority, operations: { ...operations, recordHealth } });
    const { link, supervisor } = stage.linkTo(edge, { joinToken: operations.issueToken() });
    await link.start();
    await until("heartbeats are acknowledged", () => supervisor.of("beat").length >= 3);
    const beats = supervisor.of("beat") as { readonly sentAtMonoMs: number; readonly at: number }[];
    // Timers may fire a millisecond early.
    for (const { sentAtMonoMs, at } of beats) expect(at - sentAtMonoMs).toBeGreaterThanOrEqual(slowMs - 2);
  });

  test("while the database is away nothing is acknowledged and the session stays open", async () => {
    const { edge, link, supervisor } = await stage.enrolled();
    await until("a heartbeat is acknowledged", () => supervisor.of("beat").length > 0);
    edge.operations.isAway = true;
    const tries = () => edge.operations.callsOf("recordHealth").length;
    const first = tries();
    await until("a renewal has failed", () => tries() > first);
    const acknowledged = supervisor.of("beat").length;
    await until("more have failed", () => tries() > first + 3);
    expect(supervisor.of("beat")).toHaveLength(acknowledged);
    expect(link.isOpen()).toBe(true);
    edge.operations.isAway = false;
    await until("it is acknowledged again", () => supervisor.of("beat").length > acknowledged);
    expect(supervisor.of("disconnect")).toEqual([]);
  });

  test("after a restart of the control plane the session resumes with what is held, and progress is said again", async () => {
    const { edge, link, supervisor } = await stage.enrolled();
    const [kept, lost] = [makeId("a"), makeId("a")];
    edge.operations.attempts.set(kept, { fence: 1n, state: "running" });
    supervisor.attempts = [kept, lost].map((attemptId) => ({
      attemptId,
      fence: 1n,
      state: HeldState.HELD_STATE_RUNNING,
    }));
    link.sendProgress({ attemptId: kept, fence: 1n, fraction: 0.5, speed: 1, etaMs: -1n, step: "drawing" });
    await edge.stop();
    await until("the link knows", () => !link.isOpen() && supervisor.of("disconnect").length === 1);
    const request = {
      attemptId: kept,
      fence: 1n,
      outcome: Outcome.OUTCOME_SUCCEEDED,
      result: "{}",
      outputs: [],
      failure: undefined,
      usage: [],
      elapsedMs: 1n,
    };
    expect(await failure(link.complete(request))).toMatchObject({ code: "unavailable" });
    const back = await stage.serve({}, edge);
    await until("the session is open again", () => link.isOpen());
    const ack = supervisor.of("ack").at(-1) as HelloAck;
    expect(ack.epoch).toBe(2n);
    expect(ack.verdicts).toEqual([
      { attemptId: kept, fence: 1n, action: VerdictAction.VERDICT_ACTION_CONTINUE },
      { attemptId: lost, fence: 1n, action: VerdictAction.VERDICT_ACTION_ABANDON },
    ]);
    await until("progress is said again", () => back.progress.length === 1);
    expect((await link.complete(request)).applied).toBe(true);
    expect((await link.placeOutputs({ attemptId: kept, fence: 1n, outputs: [] })).targets).toEqual([]);
  });

  test("a supervisor that throws on a message does not end the session", async () => {
    const edge = await stage.serve();
    const supervisor = recorder();
    const { link } = stage.linkTo(edge, {
      supervisor: {
        ...supervisor,
        onHeartbeatAck: (sentAtMonoMs, stops) => {
          supervisor.onHeartbeatAck(sentAtMonoMs, stops);
          throw new Error("a fault of the agent");
        },
      },
    });
    await link.start();
    await until("several are acknowledged", () => supervisor.of("beat").length >= 3);
    expect(supervisor.of("disconnect")).toEqual([]);
  });

  test("an inventory that cannot be told ends that stream, not the agent, and is tried again", async () => {
    const edge = await stage.serve();
    let asked = 0;
    const { link, lines } = stage.linkTo(edge, {
      inventory: () => {
        asked += 1;
        if (asked === 2) throw new Error("the GPU is gone");
        return inventory;
      },
    });
    await link.start();
    await until("the session opens at the next try", () => link.isOpen());
    expect(lines).toEqual(["warn: the agent could not say what it holds: Error: the GPU is gone"]);
  });

  test("an address that is none is refused at the start", async () => {
    const edge = await stage.serve();
    const { link } = stage.linkTo(edge, { sessionAddress: "control-plane" });
    expect((await failure(link.start())).message).toBe(
      'the address of the control plane must be host:port, got "control-plane"',
    );
  });

  test("a stop says goodbye: the end is stored at once", async () => {
    const { edge, link } = await stage.enrolled();
    await link.stop();
    await until("the end is stored", () => edge.operations.callsOf("closeSession").length === 1);
    await link.stop();
  });

  test("a report that is too large loses its evidence first", async () => {
    const { edge, link } = await stage.enrolled();
    const attemptId = makeId("a");
    const failed = { failureClass: "unknown", message: "m", evidence: `${"e".repeat(300_000)}END`, exit: "1" };
    const request = {
      attemptId,
      fence: 1n,
      outcome: Outcome.OUTCOME_FAILED,
      result: "{}",
      outputs: [],
      failure: failed,
      usage: [],
      elapsedMs: 1n,
    };
    await link.complete(request);
    expect(edge.operations.ends[0]?.failure?.evidence).toMatch(/^e{1997}END$/);
    await expect(link.complete({ ...request, result: "r".repeat(300_000) })).rejects.toMatchObject({
      code: "body_too_large",
    });
  });
});

test("a certificate past two thirds of its life is renewed with a new key, and the session goes on with it", async () => {
  // Issued 60 of its 72 hours ago.
  const { authority } = await openAuthority(undefined, () => Date.now() - 60 * 3_600_000);
  const operations = createFakeOperations(authority);
  const edge = await stage.serve({ authority, operations });
  const { link, supervisor } = stage.linkTo(edge, {
    joinToken: operations.issueToken(),
    pace: { ...fastPace, renewalPauseMs: 300 },
  });
  await link.start();
  const before = await stage.identity();
  await until("it is renewed and a second session is open", () => supervisor.of("ack").length >= 2);
  const after = await stage.identity();
  expect(after.key).not.toBe(before.key);
  const [, second] = operations.callsOf("openSession") as { serial: string }[];
  expect(operations.hosts.get(link.hostId() ?? "")?.serials.get(second?.serial ?? "")).toBe("valid");
  expect(second?.serial).not.toBe(serialOf(before.certificate));
});
