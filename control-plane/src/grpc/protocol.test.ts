// Both protocols over real mutual TLS: batches both ways and CompleteMany with hosts that speak protocol 2, single messages with hosts
// of the release before, and what a host must not do with a batch.
import {
  type CompleteManyResponse,
  type CompleteRequest,
  Outcome,
  Refusal,
} from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { maxEndsPerCall, maxMessagesPerBatch } from "@renderplane/proto/kernel/limits.ts";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { codeOf, hello, rawStream, until } from "./testing.ts";
import { makeId, offer } from "./testing-operations.ts";
import { answer, beat, of, running, startWire, type Wire } from "./testing-wire.ts";

let wire: Wire;
beforeEach(async () => {
  wire = await startWire();
});
afterEach(() => wire.stop());

const old = () => hello({ protocolMin: 1, protocolMax: 1 });
const giveOffers = (count: number) => {
  const given = Array.from({ length: count }, () => offer());
  for (const { attemptId, fence } of given) wire.edge.operations.attempts.set(attemptId, { fence, state: "offered" });
  wire.host().offers.push(...given);
  wire.edge.ring(wire.identity.hostId);
  return given;
};
const accepts = (given: readonly { attemptId: string; fence: bigint }[]) =>
  given.map(({ attemptId, fence }) => ({
    message: {
      $case: "offerAnswer" as const,
      value: { attemptId, fence, accepted: true, refusal: Refusal.REFUSAL_UNSPECIFIED, reason: "" },
    },
  }));

describe("protocol 2", () => {
  test("offers that wait together come as one, their answers go as one, and the starts come back as one", async () => {
    const stream = rawStream(wire.client);
    expect((await stream.ack).protocol).toBe(2);
    const given = giveOffers(30);
    await until("the offers arrive", () => of(stream, "offer").length === 30);
    stream.send({ $case: "batch", value: { messages: accepts(given) } });
    await until("the starts arrive", () => of(stream, "start").length === 30);
    expect(of(stream, "start").map((s) => s.attemptId)).toEqual(given.map((o) => o.attemptId));
    expect(stream.frames[0]).toBe(1);
    expect(stream.frames.length).toBeLessThan(10);
  });

  test("the messages of a batch are taken in their order; a batch inside a batch is ignored", async () => {
    const stream = rawStream(wire.client);
    await stream.ack;
    const { attemptId, fence } = await wire.runOne(stream);
    const held = [running({ attemptId, fence })];
    const beatOf = (sequence: bigint) => ({
      message: { $case: "heartbeat" as const, value: { sequence, attempts: held, health: undefined } },
    });
    const progress = { attemptId, fence, fraction: 0.5, speed: 1, etaMs: 1n, step: "drawing" };
    stream.send({
      $case: "batch",
      value: {
        messages: [
          beatOf(7n),
          { message: { $case: "batch", value: { messages: [beatOf(99n)] } } },
          { message: undefined },
          { message: { $case: "progress", value: progress } },
          beatOf(8n),
        ],
      },
    });
    await until("the newest is acknowledged", () => of(stream, "heartbeatAck").length === 1);
    expect(of(stream, "heartbeatAck")[0]?.sequence).toBe(8n);
    expect(wire.edge.progress).toHaveLength(1);
    stream.send({
      $case: "batch",
      value: { messages: [{ message: { $case: "goodbye", value: { reason: "" } } }, beatOf(100n)] },
    });
    expect(await stream.ended).toBeUndefined();
  });

  test("a batch that is too long ends the stream with a sentence", async () => {
    const stream = rawStream(wire.client);
    await stream.ack;
    const messages = Array.from({ length: maxMessagesPerBatch + 1 }, () => ({ message: undefined }));
    stream.send({ $case: "batch", value: { messages } });
    expect(codeOf(await stream.ended)).toBe("3 invalid_request");
  });
});

describe("protocol 1, the release before", () => {
  test("everything comes one by one, and its batches are refused", async () => {
    const stream = rawStream(wire.client, old());
    expect((await stream.ack).protocol).toBe(1);
    const given = giveOffers(30);
    await until("the offers arrive", () => of(stream, "offer").length === 30);
    for (const one of given) answer(stream, one);
    await until("the starts arrive", () => of(stream, "start").length === 30);
    expect(stream.frames.every((size) => size === 1)).toBe(true);
    beat(stream, 1n, given.map(running));
    await until("it is acknowledged", () => of(stream, "heartbeatAck").length === 1);
    expect((await wire.complete(given[0] as { attemptId: string; fence: bigint })).applied).toBe(true);
    stream.send({ $case: "batch", value: { messages: [] } });
    expect(codeOf(await stream.ended)).toBe("3 invalid_request");
  });

  test("it is not asked to move, and a host of a newer release is spoken to in our best", async () => {
    const [one] = [rawStream(wire.client, old())];
    await one?.ack;
    expect(wire.edge.edge.moveAll(50)).toBe(0);
    const newer = rawStream(wire.connect(wire.identity), hello({ protocolMin: 2, protocolMax: 9 }));
    expect((await newer.ack).protocol).toBe(2);
    expect(wire.edge.edge.moveAll(50)).toBe(1);
    await until("it is asked to move", () => of(newer, "move").length === 1);
    expect(of(newer, "move")[0]).toEqual({ address: "", withinMs: 50 });
  });
});

describe("many ends in one call", () => {
  const end = (more: Partial<CompleteRequest>): CompleteRequest => ({
    attemptId: makeId("a"),
    fence: 1n,
    outcome: Outcome.OUTCOME_SUCCEEDED,
    result: "{}",
    outputs: [],
    failure: undefined,
    usage: [],
    elapsedMs: 1n,
    ...more,
  });
  const completeMany = (ends: CompleteRequest[]) =>
    new Promise<CompleteManyResponse>((resolve, reject) => {
      wire.client.completeMany({ ends }, (error, response) => (error ? reject(error) : resolve(response)));
    });

  test("each is answered for itself, in their order: applied, stale, malformed, and one that fails", async () => {
    const stream = rawStream(wire.client);
    await stream.ack;
    const good = await wire.runOne(stream);
    const failing = makeId("a");
    const { finishAttempt } = wire.edge.operations;
    wire.edge.operations.finishAttempt = async (r) => {
      if (r.attemptId === failing) throw new RenderplaneError("unavailable", "the database is away");
      return finishAttempt(r);
    };
    const { results } = await completeMany([
      end({ attemptId: "nonsense" }),
      end({ attemptId: good.attemptId, fence: good.fence }),
      end({ attemptId: failing }),
      end({ fence: 7n }),
    ]);
    expect(results).toEqual([
      {
        applied: false,
        errorCode: "invalid_request",
        errorMessage: "attempt_id: is not the id of an attempt",
      },
      { applied: true, errorCode: "", errorMessage: "" },
      { applied: false, errorCode: "unavailable", errorMessage: "the database is away" },
      { applied: false, errorCode: "", errorMessage: "" },
    ]);
  });

  test("more than a call may hold is refused before anything is done, and one who is not trusted does nothing", async () => {
    const tooMany = Array.from({ length: maxEndsPerCall + 1 }, () => end({}));
    expect(codeOf(await completeMany(tooMany).catch((error: unknown) => error))).toBe("3 invalid_request");
    for (const serial of wire.host().serials.keys()) wire.host().serials.set(serial, "revoked");
    expect(codeOf(await completeMany([end({})]).catch((error: unknown) => error))).toBe("16 certificate_refused");
    expect(wire.edge.operations.ends).toEqual([]);
  });

  test("while the host's own stream was just looked at, its certificate is not asked for again at every call", async () => {
    const stream = rawStream(wire.client);
    await stream.ack;
    await until("the watch has looked", () => wire.edge.operations.callsOf("refusedSessions").length >= 2);
    const { attemptId, fence } = await wire.runOne(stream);
    expect((await completeMany([end({ attemptId, fence })])).results[0]?.applied).toBe(true);
    expect(wire.edge.operations.callsOf("checkCertificate")).toEqual([]);
    for (const serial of wire.host().serials.keys()) wire.host().serials.set(serial, "revoked");
    expect(codeOf(await stream.ended)).toBe("16 certificate_refused");
    expect(codeOf(await completeMany([end({})]).catch((error: unknown) => error))).toBe("16 certificate_refused");
  });
});
