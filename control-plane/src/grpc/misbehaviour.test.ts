// What one host must never do to the others: bytes that are no message, floods, nonsense and reports that break the contract end
// that stream or that attempt, with a code and a sentence, and the process serves on.
import type { ServiceError } from "@grpc/grpc-js";
import { HeldState, Outcome } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { codeOf, hello, rawEnrol, rawStream, until } from "./testing.ts";
import { makeId, offer } from "./testing-operations.ts";
import { beat, of, running, startWire, type Wire } from "./testing-wire.ts";

let wire: Wire;
beforeEach(async () => {
  wire = await startWire();
});
afterEach(() => wire.stop());

describe("completions", () => {
  test("a success is passed on with its host, and heartbeats that still name it are not answered with a stop", async () => {
    const stream = rawStream(wire.client);
    await stream.ack;
    const { attemptId, fence } = await wire.runOne(stream);
    const output = { name: "a.mp4", sha256: "a".repeat(64), sizeBytes: 5n, mediaType: "video/mp4" };
    const answer = await wire.complete({ attemptId, fence, result: '{"x":"a\\u0000b"}', outputs: [output] });
    expect(answer.applied).toBe(true);
    expect(wire.edge.operations.ends[0]).toMatchObject({
      attemptId,
      hostId: wire.identity.hostId,
      outcome: "succeeded",
      result: { x: "ab" },
      outputs: [{ ...output, sizeBytes: 5 }],
      failure: null,
    });
    beat(stream, 1n, [running({ attemptId, fence })]);
    await until("the acknowledgement arrives", () => of(stream, "heartbeatAck").length === 1);
    expect(of(stream, "heartbeatAck")[0]?.stops).toEqual([]);
    expect((await wire.complete({ attemptId, fence })).applied).toBe(false);
  });

  test("a report that breaks the contract still ends the attempt, as agent_bug, and keeps what was used", async () => {
    const use = { service: "openai", provider: "openai", unit: "token", quantity: 12 };
    const bad = [
      { result: "not json" },
      { result: "[1]" },
      { result: JSON.stringify({ x: "y".repeat(70_000) }) },
      { outputs: [{ name: "../x", sha256: "a".repeat(64), sizeBytes: 1n, mediaType: "" }] },
      { outcome: Outcome.OUTCOME_UNSPECIFIED },
    ];
    for (const report of bad) await wire.complete({ ...report, usage: [use] });
    expect(wire.edge.operations.ends).toHaveLength(bad.length);
    for (const end of wire.edge.operations.ends)
      expect(end).toMatchObject({ outcome: "failed", failure: { failureClass: "agent_bug" }, usage: [use] });
    expect(wire.edge.operations.ends[0]?.failure?.message).toBe(
      "the agent's report cannot be used: the result is not JSON; upgrade the agent",
    );
  });

  test("a failure class that this version does not know is kept as unknown with its text", async () => {
    const failure = { failureClass: "solar_flare", message: "bits flipped", evidence: "e", exit: "1" };
    await wire.complete({ outcome: Outcome.OUTCOME_FAILED, failure });
    expect(wire.edge.operations.ends[0]).toMatchObject({
      outcome: "failed",
      failure: { failureClass: "unknown", severity: "low", message: "bits flipped", exit: "1" },
    });
  });
});

describe("misbehaviour of one host", () => {
  const expectOthersLive = async () => {
    const other = await rawEnrol(wire.edge, wire.edge.operations.issueToken(), {
      name: `n${Math.random()}`.replace("0.", ""),
    });
    const stream = rawStream(wire.connect(other));
    await stream.ack;
    beat(stream, 1n, []);
    await until("another host is served", () => of(stream, "heartbeatAck").length === 1);
  };
  /** A stream whose messages are written as they are. */
  const rawBytes = (bytes: Buffer) => {
    const call = wire.client.makeBidiStreamRequest(
      "/renderplane.v1.AgentService/Session",
      (value: Buffer) => value,
      (value: Buffer) => value,
    );
    const ended = new Promise<ServiceError>((resolve) => call.on("error", resolve));
    call.on("data", () => {});
    call.write(bytes);
    return ended;
  };

  test("bytes that are no message end that stream only", async () => {
    expect((await rawBytes(Buffer.from([0xff, 0xff, 0xff, 0xff, 0xff]))).code).toBe(13);
    await expectOthersLive();
  });

  test("a message over the limit ends that stream only", async () => {
    expect((await rawBytes(Buffer.alloc(2 * 1024 * 1024))).code).toBe(8);
    await expectOthersLive();
  });

  test.each([
    ["no Hello first", { $case: "goodbye", value: { reason: "" } }, "the first message must be Hello, got goodbye"],
    ["no inventory", hello({ inventory: undefined }), "inventory: is missing; the agent must say what the host has"],
    [
      "an id that is none",
      hello({ attempts: [{ attemptId: "'; drop", fence: 1n, state: HeldState.HELD_STATE_RUNNING }] }),
      "attempts.0.attempt_id: is not the id of an attempt",
    ],
    [
      "too many attempts",
      hello({
        attempts: Array.from({ length: 65 }, () => ({
          attemptId: makeId("a"),
          fence: 1n,
          state: HeldState.HELD_STATE_RUNNING,
        })),
      }),
      "attempts: lists 65 attempts, a host holds at most 64",
    ],
  ] as const)("%s is refused by code and sentence", async (_, first, text) => {
    const failed = await rawStream(wire.client, first).ended;
    expect(codeOf(failed)).toBe("3 invalid_request");
    expect(failed?.details).toBe(text);
    await expectOthersLive();
  });

  test("another protocol version and a second Hello are refused", async () => {
    const old = await rawStream(wire.client, hello({ protocolMin: 7, protocolMax: 9 })).ended;
    expect(codeOf(old)).toBe("9 protocol_unsupported");
    const stream = rawStream(wire.client);
    await stream.ack;
    stream.send(hello());
    expect(codeOf(await stream.ended)).toBe("3 invalid_request");
  });

  test("a host that reads nothing is cut off after a while, and until then little of its offers is in memory", async () => {
    await wire.stop();
    wire = await startWire({ outbound: { blockedMs: 300 } });
    const stream = rawStream(wire.client);
    await stream.ack;
    stream.call.pause();
    for (let n = 0; n < 120; n++) {
      wire.host().offers.push(offer({ request: { script: "x".repeat(60_000) } }));
    }
    wire.edge.ring(wire.identity.hostId);
    let most = 0;
    await until("the session is closed", () => {
      most = Math.max(most, wire.edge.edge.levels().waitingBytes);
      return wire.edge.operations.callsOf("closeSession").length === 1;
    });
    // Half of the queue, and one message that may pass it.
    expect(most).toBeGreaterThan(400_000);
    expect(most).toBeLessThan(1024 * 1024);
    expect(wire.edge.edge.levels()).toMatchObject({ sessions: 0, waitingMessages: 0, waitingBytes: 0 });
    await expectOthersLive();
    stream.call.resume();
    expect(codeOf(await stream.ended)).toBe("14 unavailable");
  });

  test("an offer that is too large for the wire ends its attempt and not the stream", async () => {
    const stream = rawStream(wire.client);
    await stream.ack;
    const large = offer({ request: { script: "x".repeat(300_000) } });
    wire.edge.operations.attempts.set(large.attemptId, { fence: 1n, state: "offered" });
    wire.host().offers.push(large);
    const small = await wire.giveOffer(stream);
    await until("its attempt has ended", () => wire.edge.operations.ends.length === 1);
    expect(wire.edge.operations.ends[0]).toMatchObject({
      attemptId: large.attemptId,
      outcome: "failed",
      failure: { failureClass: "input_invalid" },
    });
    expect(of(stream, "offer").map((o) => o.attemptId)).toEqual([small.attemptId]);
  });
});
