// The link against several replicas over real mutual TLS: protocols 1 and 2, batches, ends that go together, moving, coming back.
import { status } from "@grpc/grpc-js";
import {
  type CompleteRequest,
  type Offer,
  Outcome,
  Refusal,
  type SessionResponse,
} from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { testOffer, until } from "../testing.ts";
import { createLinkBed, deadAddress, type LinkBed, type Replica } from "./testing-server.ts";

let bed: LinkBed;
beforeEach(async () => {
  bed = await createLinkBed();
});
afterEach(() => bed.clear());

const end = (attemptId: string, more: Partial<CompleteRequest> = {}): CompleteRequest => ({
  attemptId,
  fence: 1n,
  outcome: Outcome.OUTCOME_SUCCEEDED,
  result: "{}",
  outputs: [],
  failure: undefined,
  usage: [],
  elapsedMs: 1n,
  ...more,
});
const yes = (attemptId: string) => ({
  attemptId,
  fence: 1n,
  accepted: true,
  refusal: Refusal.REFUSAL_UNSPECIFIED,
  reason: "",
});
const offer = (attemptId: string): SessionResponse => ({
  message: { $case: "offer", value: testOffer("noop", { attemptId }) satisfies Offer },
});
const kindsOf = (replica: Replica) => replica.messages.map((message) => message.$case);
const heartbeats = (replica: Replica) => kindsOf(replica).filter((kind) => kind === "heartbeat").length;

describe("protocol 2", () => {
  test("what waits together goes in one batch, and a batch is taken message by message, an inner one not", async () => {
    const replica = await bed.replica();
    const link = await bed.link([replica.address]);
    await until("it is open", () => link.isOpen());
    for (const id of ["a", "b", "c"]) link.answerOffer(yes(id));
    await until("a batch arrives", () => kindsOf(replica).includes("batch"));
    const [batch] = replica.messages.flatMap((m) => (m.$case === "batch" ? [m.value.messages] : []));
    expect(batch?.flatMap(({ message }) => (message?.$case === "offerAnswer" ? message.value.attemptId : []))).toEqual([
      "a",
      "b",
      "c",
    ]);
    const inner: SessionResponse = { message: { $case: "batch", value: { messages: [offer("hidden")] } } };
    const stop: SessionResponse = { message: { $case: "stop", value: { attemptId: "one", fence: 1n, reason: 1 } } };
    replica.say({ $case: "batch", value: { messages: [offer("one"), inner, stop] } });
    await until("all are taken", () => link.seen.includes("stop one"));
    expect(link.seen.filter((what) => /offer|stop/.test(what))).toEqual(["offer one", "stop one"]);
  });

  test("ends that wait together go in one call, and each is answered for itself", async () => {
    const replica = await bed.replica({
      completeMany: ({ ends }) => ({
        results: ends.map(({ attemptId }) =>
          attemptId === "bad"
            ? { applied: false, errorCode: "invalid_request", errorMessage: "result: not valid" }
            : { applied: attemptId !== "stale", errorCode: "", errorMessage: "" },
        ),
      }),
    });
    const link = await bed.link([replica.address]);
    await until("it is open", () => link.isOpen());
    const answers = await Promise.allSettled(["good", "bad", "stale"].map((id) => link.complete(end(id))));
    expect(answers[0]).toMatchObject({ value: { applied: true } });
    expect(answers[1]).toMatchObject({ reason: { code: "invalid_request", message: "result: not valid" } });
    expect(answers[2]).toMatchObject({ value: { applied: false } });
    expect([replica.calls.many.length, replica.calls.single.length]).toEqual([1, 0]);
  });

  test("a call holds at most a hundred ends and a quarter of a mebibyte", async () => {
    const replica = await bed.replica({
      completeMany: ({ ends }) => ({ results: ends.map(() => ({ applied: true, errorCode: "", errorMessage: "" })) }),
    });
    const link = await bed.link([replica.address]);
    await until("it is open", () => link.isOpen());
    await Promise.all(Array.from({ length: 250 }, (_, i) => link.complete(end(`small-${i}`))));
    expect(replica.calls.many.map((call) => call.ends.length)).toEqual([100, 100, 50]);
    replica.calls.many.length = 0;
    const large = { result: JSON.stringify("x".repeat(60_000)) };
    await Promise.all(Array.from({ length: 9 }, (_, i) => link.complete(end(`large-${i}`, large))));
    for (const call of replica.calls.many) expect(call.ends.length).toBeLessThanOrEqual(4);
    expect(replica.calls.many.reduce((sum, call) => sum + call.ends.length, 0) + replica.calls.single.length).toBe(9);
  });

  test("a replica that says protocol 2 and does not know the call gets one end a call", async () => {
    const replica = await bed.replica();
    const link = await bed.link([replica.address]);
    await until("it is open", () => link.isOpen());
    const answers = await Promise.all(["a", "b"].map((id) => link.complete(end(id))));
    expect(answers).toEqual([{ applied: true }, { applied: true }]);
    expect(replica.calls.single).toHaveLength(2);
  });
});

test("protocol 1: single messages and single ends, as the release before wants them", async () => {
  const replica = await bed.replica({ protocol: 0, completeMany: () => ({ results: [] }) });
  const link = await bed.link([replica.address]);
  await until("it is open", () => link.isOpen());
  for (const id of ["a", "b", "c"]) link.answerOffer(yes(id));
  await Promise.all(["a", "b"].map((id) => link.complete(end(id))));
  await until("all arrived", () => kindsOf(replica).filter((kind) => kind === "offerAnswer").length === 3);
  expect(kindsOf(replica)).not.toContain("batch");
  expect([replica.calls.many.length, replica.calls.single.length]).toEqual([0, 2]);
});

describe("several replicas", () => {
  test("one that is dead is passed over, and what works is kept", async () => {
    const replica = await bed.replica();
    const link = await bed.link([await deadAddress(), replica.address]);
    await until("it is open", () => link.isOpen());
    for (let n = 0; n < 3; n++) {
      const streams = replica.streams.length;
      replica.streams.at(-1)?.emit("error", { code: status.UNAVAILABLE, details: "gone" });
      await until("it is back on the same one", () => replica.streams.length > streams && link.isOpen());
    }
  });

  test("the addresses that a replica names are known after a restart, when its own is gone", async () => {
    const second = await bed.replica();
    const first = await bed.replica({ addresses: () => [first.address, second.address] });
    const link = await bed.link([first.address]);
    await until("it is open", () => link.isOpen());
    await first.stop();
    await until("it found the other", () => second.streams.length > 0 && link.isOpen());
    await link.stop();
    const again = await bed.link([first.address]);
    await until("the next start found it too", () => second.streams.length > 1 && again.isOpen());
  });

  test("asked to move, it is open there before it says goodbye here", async () => {
    const [first, second] = [await bed.replica(), await bed.replica()];
    const link = await bed.link([first.address]);
    await until("it beats", () => heartbeats(first) > 0);
    let wasOpenAtGoodbye: boolean | undefined;
    first.streams[0]?.on("data", ({ message }) => {
      const all = message?.$case === "batch" ? message.value.messages : [{ message }];
      if (all.some((one: SessionResponse) => (one.message?.$case as string) === "goodbye"))
        wasOpenAtGoodbye = kindsOf(second).includes("hello");
    });
    first.say({ $case: "move", value: { address: second.address, withinMs: 100 } });
    await until("it beats there", () => heartbeats(second) > 1);
    await until("it said goodbye", () => wasOpenAtGoodbye !== undefined);
    expect(wasOpenAtGoodbye).toBe(true);
    expect(link.isOpen()).toBe(true);
    link.answerOffer(yes("after"));
    await until("what is said goes to the new one", () => kindsOf(second).includes("offerAnswer"));
    // An offer of the old stream is of an older epoch.
    first.say({ $case: "offer", value: testOffer("noop", { attemptId: "late" }) });
    second.say({ $case: "offer", value: testOffer("noop", { attemptId: "fresh" }) });
    await until("the new one is heard", () => link.seen.includes("offer fresh"));
    expect(link.seen).not.toContain("offer late");
  });

  test("asked to move to where nobody is, it stays", async () => {
    const first = await bed.replica();
    const link = await bed.link([first.address]);
    await until("it beats", () => heartbeats(first) > 0);
    first.say({ $case: "move", value: { address: await deadAddress(), withinMs: 1 } });
    first.say({ $case: "move", value: { address: "", withinMs: 1 } });
    const before = heartbeats(first);
    await until("it goes on beating", () => heartbeats(first) > before + 5);
    expect(link.seen).not.toContain("disconnect");
    expect(first.streams).toHaveLength(1);
  });

  test("refused by name, it asks slowly and keeps what runs", async () => {
    const refusing = await bed.replica({ refuseWith: status.PERMISSION_DENIED });
    const link = await bed.link([refusing.address], { pace: { refusedRetryMs: 60_000, firstRetryMs: 5 } });
    await until("it was refused", () => refusing.streams.length === 1);
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(refusing.streams).toHaveLength(1);
    expect(link.seen.filter((what) => what !== "disconnect")).toEqual([]);
  });
});
