// The queue in front of one host: what overtakes what, what waits and for how long, and that a batch is the message it says it is.
import { SessionResponse, StopReason } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import { maxControlMessageBytes, maxMessagesPerBatch } from "@renderplane/proto/kernel/limits.ts";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { batchOf, createOutbound, type OutboundLimits } from "./outbound.ts";
import { until } from "./testing.ts";

type Sent = NonNullable<SessionResponse["message"]>;
const start = (attemptId: string) => ({ $case: "start" as const, value: { attemptId, fence: 1n } });
const stop = (attemptId: string) => ({
  $case: "stop" as const,
  value: { attemptId, fence: 1n, reason: StopReason.STOP_REASON_CANCELLED },
});
const ack = (sequence: bigint) => ({
  $case: "heartbeatAck" as const,
  value: { sequence, nextHeartbeatMs: 1, stops: [] },
});

/** A transport that takes a message when it is told to. */
const transport = (limits: Partial<OutboundLimits> = {}) => {
  const frames: Sent[][] = [];
  const failures: unknown[] = [];
  const waiting: (() => void)[] = [];
  const outbound = createOutbound({
    write: (bytes, taken) => {
      const { message } = SessionResponse.decode(bytes);
      const inside = message?.$case === "batch" ? message.value.messages.map((one) => one.message) : [message];
      frames.push(inside.filter((one) => one !== undefined));
      waiting.push(taken);
    },
    limits,
    onFailure: (cause) => failures.push(cause),
  });
  const names = () => frames.map((frame) => frame.map(nameOf));
  return { outbound, frames, failures, names, takeOne: () => waiting.shift()?.(), inFlight: () => waiting.length };
};
const nameOf = (message: Sent): string =>
  message.$case === "start" || message.$case === "stop"
    ? message.value.attemptId
    : message.$case === "heartbeatAck"
      ? `ack ${message.value.sequence}`
      : message.$case;
/** Fills what may be in flight, so that the next ones wait. */
const filled = async (limits: Partial<OutboundLimits> = {}) => {
  const made = transport(limits);
  for (const n of [1, 2, 3, 4]) {
    made.outbound.send(start(`f${n}`), "start");
    await until("it is written", () => made.frames.length === n);
  }
  return made;
};

describe("the queue in front of a host", () => {
  test("stops overtake acknowledgements, those starts, those offers; a newer acknowledgement replaces the waiting one", async () => {
    const { outbound, names, takeOne } = await filled();
    outbound.send(start("offer"), "offer");
    outbound.send(start("s"), "start");
    outbound.send(ack(1n), "ack", "ack");
    outbound.send(stop("x"), "verdict");
    outbound.send(ack(2n), "ack", "ack");
    expect(outbound.waiting().messages).toBe(4);
    for (let n = 0; n < 4; n++) takeOne();
    expect(names().slice(4)).toEqual([["x"], ["ack 2"], ["s"], ["offer"]]);
    expect(outbound.waiting()).toEqual({ messages: 0, bytes: 0 });
  });

  test("protocol 2: what waits leaves as one, in the order of urgency, bounded in number and bytes", async () => {
    const made = await filled();
    made.outbound.batch();
    for (let n = 0; n < 250; n++) made.outbound.send(start(`s${n}`), "start");
    made.outbound.send(stop("x"), "verdict");
    for (let n = 0; n < 3; n++) made.takeOne();
    expect(made.frames.slice(4).map((frame) => frame.length)).toEqual([maxMessagesPerBatch, maxMessagesPerBatch, 51]);
    expect(made.names()[4]?.slice(0, 3)).toEqual(["x", "s0", "s1"]);
    const large = await filled({ bytes: 8 * 1024 * 1024 });
    large.outbound.batch();
    for (let n = 0; n < 5; n++) large.outbound.send(start("x".repeat(100_000)), "offer");
    large.takeOne();
    expect(large.frames[4]?.length).toBe(2);
  });

  test("messages that are sent in one turn of the event loop leave together", async () => {
    const made = transport();
    made.outbound.batch();
    for (let n = 0; n < 10; n++) made.outbound.send(start(`s${n}`), "start");
    await until("they are written", () => made.frames.length > 0);
    expect(made.frames.map((frame) => frame.length)).toEqual([10]);
  });

  test("a message over the limit is not sent; a full queue fails once and takes nothing more", async () => {
    const made = await filled({ messages: 10 });
    expect(made.outbound.send(start("x".repeat(maxControlMessageBytes)), "offer")).toBe(false);
    for (let n = 0; n < 20; n++) made.outbound.send(start(`s${n}`), "start");
    expect(made.failures).toEqual(["overflow"]);
    expect(made.outbound.waiting()).toEqual({ messages: 0, bytes: 0 });
    made.takeOne();
    expect(made.frames).toHaveLength(4);
  });

  test("room ends at half of the queue, in messages or bytes, comes back when it empties, and is none once it is closed", async () => {
    const made = await filled({ messages: 10, bytes: 1000 });
    expect(await made.outbound.room()).toBe(true);
    for (let n = 0; n < 5; n++) made.outbound.send(start(`s${n}`), "offer");
    const answers: boolean[] = [];
    const room = () => void made.outbound.room().then((answer) => answers.push(answer));
    room();
    expect(made.outbound.blockedMs()).toBeGreaterThan(0);
    made.takeOne();
    await until("there is room", () => answers.length === 1);
    made.outbound.send(start("x".repeat(600)), "offer");
    room();
    made.outbound.close();
    await until("the wait ends", () => answers.length === 2);
    expect(answers).toEqual([true, false]);
  });

  test("a transport that throws ends this queue and nothing else", async () => {
    const failures: unknown[] = [];
    const outbound = createOutbound({
      write: () => {
        throw new Error("write after end");
      },
      onFailure: (cause) => failures.push(cause),
    });
    outbound.send(start("s"), "start");
    await until("the failure is told", () => failures.length === 1);
    expect(String(failures[0])).toBe("Error: write after end");
  });
});

test("a batch decodes to the messages that were put in, whatever their sizes", () => {
  fc.assert(
    fc.property(fc.array(fc.nat(70_000), { minLength: 1, maxLength: 30 }), (sizes) => {
      const sent = sizes.map((size) => start("x".repeat(size)));
      const { message } = SessionResponse.decode(
        batchOf(sent.map((one) => SessionResponse.encode({ message: one }).finish())),
      );
      expect(message).toEqual({ $case: "batch", value: { messages: sent.map((one) => ({ message: one })) } });
    }),
    { numRuns: 50 },
  );
});
