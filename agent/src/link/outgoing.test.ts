// The queue in front of the session's stream: order, replacement, batches, the bound and what it drops.
import type { SessionRequest } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import { maxMessagesPerBatch } from "@renderplane/proto/kernel/limits.ts";
import { expect, test } from "vitest";
import { createOutgoing, type Outgoing } from "./outgoing.ts";

const goodbye = (reason: string): Outgoing => ({ $case: "goodbye", value: { reason } });
const beat = (sequence: bigint): Outgoing => ({
  $case: "heartbeat",
  value: { sequence, attempts: [], health: undefined },
});
const progress = (attemptId: string, fraction = 0): Outgoing => ({
  $case: "progress",
  value: { attemptId, fence: 1n, fraction, speed: 0, etaMs: -1n, step: "" },
});
const textOf = ({ message }: SessionRequest): unknown => {
  switch (message?.$case) {
    case "batch":
      return message.value.messages.map(textOf);
    case "goodbye":
      return message.value.reason;
    case "progress":
      return `${message.value.attemptId} ${message.value.fraction}`;
    case "heartbeat":
      return `beat ${message.value.sequence}`;
    default:
      return message?.$case;
  }
};

const slowStream = (max?: number) => {
  const written: unknown[] = [];
  let room = 1;
  let overflows = 0;
  const queue = createOutgoing({
    write: (message) => {
      written.push(textOf(message));
      room -= 1;
      return room > 0;
    },
    onOverflow: () => {
      overflows += 1;
    },
    ...(max === undefined ? {} : { max }),
  });
  const makeRoom = (messages: number) => {
    room = messages;
    queue.resume();
  };
  return { queue, written, makeRoom, overflows: () => overflows };
};
const nextTurn = () => new Promise(setImmediate);

test("protocol 1: one message a write, progress last, nothing into a full stream", async () => {
  const { queue, written, makeRoom } = slowStream();
  queue.send(progress("x"), "x");
  queue.send(goodbye("a"));
  queue.send(beat(1n), "heartbeat");
  await nextTurn();
  expect(written).toEqual(["a"]);
  makeRoom(9);
  expect(written).toEqual(["a", "beat 1", "x 0"]);
});

test("protocol 2: what is said together goes in one, what was said alone goes plain", async () => {
  const { queue, written, makeRoom } = slowStream();
  queue.allowBatches();
  queue.send(goodbye("alone"));
  await nextTurn();
  queue.send(progress("x"), "x");
  for (const text of ["a", "b"]) queue.send(goodbye(text));
  await nextTurn();
  expect(written).toEqual(["alone"]);
  makeRoom(9);
  expect(written).toEqual(["alone", ["a", "b", "x 0"]]);
});

test("a newer heartbeat waits behind the answers that it knows of", async () => {
  const { queue, written, makeRoom } = slowStream();
  queue.send(goodbye("full"));
  await nextTurn();
  queue.send(beat(1n), "heartbeat");
  queue.send(goodbye("answer"));
  queue.send(beat(2n), "heartbeat");
  makeRoom(9);
  expect(written).toEqual(["full", "answer", "beat 2"]);
});

test("a batch has at most its number of messages and its size", async () => {
  const { queue, written, makeRoom } = slowStream();
  makeRoom(99);
  queue.allowBatches();
  for (let n = 0; n < maxMessagesPerBatch + 5; n++) queue.send(goodbye(`${n}`));
  await nextTurn();
  expect(written.map((batch) => (batch as string[]).length)).toEqual([maxMessagesPerBatch, 5]);
  written.length = 0;
  makeRoom(99);
  for (let n = 0; n < 3; n++) queue.send(goodbye("x".repeat(100_000)));
  await nextTurn();
  expect(written.map((batch) => (Array.isArray(batch) ? batch.length : 1))).toEqual([2, 1]);
});

test("a keyed message replaces the one that still waits", async () => {
  const { queue, written, makeRoom } = slowStream();
  queue.send(goodbye("a"));
  await nextTurn();
  for (let n = 1; n <= 50; n++) queue.send(progress("x", n), "x");
  makeRoom(9);
  expect(written).toEqual(["a", "x 50"]);
});

test("at the bound progress goes first; when there is none the stream is given up, once", async () => {
  const { queue, written, makeRoom, overflows } = slowStream(3);
  queue.send(goodbye("a"));
  await nextTurn();
  queue.send(progress("x"), "x");
  for (const text of ["b", "c", "d"]) queue.send(goodbye(text));
  expect(overflows()).toBe(0);
  queue.send(goodbye("e"));
  queue.send(goodbye("f"));
  expect(overflows()).toBe(1);
  makeRoom(9);
  expect(written).toEqual(["a"]);
});
