// One session stream over real mutual TLS, message by message, and what becomes of it when the database, the agent or the wire
// misbehaves. No misbehaviour of one host may end the process or another host's stream.
import type { ServiceError } from "@grpc/grpc-js";
import {
  type CompleteResponse,
  HeldState,
  Outcome,
  Refusal,
  StopReason,
} from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import { codeKey, retryAfterKey } from "@renderplane/proto/kernel/error-metadata.ts";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import {
  codeOf,
  hello,
  makeId,
  offer,
  type RawIdentity,
  type RawStream,
  rawClient,
  rawEnrol,
  rawStream,
  startEdge,
  type TestEdge,
  until,
} from "./testing.ts";

let edge: TestEdge;
let identity: RawIdentity;
let client: ReturnType<typeof rawClient>;
const clients: ReturnType<typeof rawClient>[] = [];

const connect = (who: RawIdentity) => {
  const made = rawClient(edge, who);
  clients.push(made);
  return made;
};
const start = async (more: Parameters<typeof startEdge>[0] = {}) => {
  edge = await startEdge(more);
  identity = await rawEnrol(edge, edge.operations.issueToken());
  client = connect(identity);
};
beforeEach(() => start());
afterEach(async () => {
  for (const made of clients.splice(0)) made.close();
  await edge.stop();
});

const of = <C extends RawStream["messages"][number]["$case"]>(stream: RawStream, $case: C) =>
  stream.messages
    .filter((message): message is Extract<RawStream["messages"][number], { $case: C }> => message.$case === $case)
    .map((message) => message.value as Extract<RawStream["messages"][number], { $case: C }>["value"]);

const host = () => {
  const found = edge.operations.hosts.get(identity.hostId);
  if (!found) throw new Error("the host is not enrolled");
  return found;
};
/** Puts an offer in the host's way and rings; answers with its id once the stream has it. */
const giveOffer = async (stream: RawStream) => {
  const given = offer();
  edge.operations.attempts.set(given.attemptId, { fence: given.fence, state: "offered" });
  host().offers.push(given);
  edge.ring(identity.hostId);
  await until("the offer arrives", () => of(stream, "offer").some((o) => o.attemptId === given.attemptId));
  return given;
};
const beat = (
  stream: RawStream,
  sequence: bigint,
  attempts: { attemptId: string; fence: bigint; state: HeldState }[],
) => stream.send({ $case: "heartbeat", value: { sequence, attempts, health: undefined } });
const running = (attempt: { attemptId: string; fence: bigint }) => ({
  attemptId: attempt.attemptId,
  fence: attempt.fence,
  state: HeldState.HELD_STATE_RUNNING,
});
/** An attempt that runs under this stream. */
const runOne = async (stream: RawStream) => {
  const given = await giveOffer(stream);
  const { attemptId, fence } = given;
  stream.send({
    $case: "offerAnswer",
    value: { attemptId, fence, accepted: true, refusal: Refusal.REFUSAL_UNSPECIFIED, reason: "" },
  });
  await until("the start arrives", () => of(stream, "start").some((s) => s.attemptId === attemptId));
  return given;
};
const complete = (request: Partial<Parameters<typeof client.complete>[0]>): Promise<CompleteResponse> =>
  new Promise((resolve, reject) => {
    const whole = {
      attemptId: makeId("a"),
      fence: 1n,
      outcome: Outcome.OUTCOME_SUCCEEDED,
      result: "{}",
      outputs: [],
      failure: undefined,
      usage: [],
      elapsedMs: 1n,
      ...request,
    };
    client.complete(whole, (error, answer) => (error ? reject(error) : resolve(answer)));
  });

describe("a session", () => {
  test("hello, offer, accept, start: nothing is sent before the answer to Hello", async () => {
    host().offers.push(offer());
    const stream = rawStream(client);
    const ack = await stream.ack;
    expect(ack).toMatchObject({ hostId: identity.hostId, epoch: 1n, heartbeatMs: 100, leaseMs: 600 });
    await until("the waiting offer arrives", () => of(stream, "offer").length === 1);
    expect(stream.messages[0]?.$case).toBe("helloAck");
    await runOne(stream);
    expect(edge.operations.callsOf("acceptOffer")).toHaveLength(1);
  });

  test("an accept that comes too late is answered with a stop", async () => {
    const stream = rawStream(client);
    await stream.ack;
    const given = await giveOffer(stream);
    edge.operations.attempts.set(given.attemptId, { fence: 2n, state: "offered" });
    const { attemptId, fence } = given;
    stream.send({
      $case: "offerAnswer",
      value: { attemptId, fence, accepted: true, refusal: Refusal.REFUSAL_UNSPECIFIED, reason: "" },
    });
    await until("the stop arrives", () => of(stream, "stop").length === 1);
    expect(of(stream, "stop")[0]).toEqual({ attemptId, fence, reason: StopReason.STOP_REASON_LEASE_LOST });
    expect(of(stream, "start")).toEqual([]);
  });

  test("a refusal ends the attempt as refused with the host's reason", async () => {
    const stream = rawStream(client);
    await stream.ack;
    const { attemptId, fence } = await giveOffer(stream);
    const reason = "12 GiB needed, 3 GiB free";
    stream.send({
      $case: "offerAnswer",
      value: { attemptId, fence, accepted: false, refusal: Refusal.REFUSAL_DISK_LOW, reason },
    });
    await until("the end is stored", () => edge.operations.ends.length === 1);
    expect(edge.operations.ends[0]).toMatchObject({
      attemptId,
      hostId: identity.hostId,
      outcome: "refused",
      failure: { failureClass: "disk_full", message: `the scratch disk of the host is too full: ${reason}` },
    });
  });

  test("heartbeats of several hosts are renewed together and acknowledged by sequence", async () => {
    await edge.stop();
    await start({ timings: { ...(await import("./testing.ts")).fastTimings, heartbeatMs: 2000 } });
    const other = await rawEnrol(edge, edge.operations.issueToken(), { name: "beta" });
    const [one, two] = [rawStream(client), rawStream(connect(other))];
    await Promise.all([one.ack, two.ack]);
    const a = await runOne(one);
    beat(one, 7n, [running(a)]);
    beat(two, 9n, []);
    await until("both are acknowledged", () => of(one, "heartbeatAck").length + of(two, "heartbeatAck").length === 2);
    expect(of(one, "heartbeatAck")[0]).toMatchObject({ sequence: 7n, stops: [], nextHeartbeatMs: 200 });
    expect(of(two, "heartbeatAck")[0]?.sequence).toBe(9n);
    expect(edge.operations.renewals).toEqual([[expect.objectContaining({ attemptId: a.attemptId, fence: a.fence })]]);
    expect(edge.operations.callsOf("recordHealth")[0]).toHaveLength(2);
  });

  test("a lost lease comes back as a stop in the acknowledgement; an offer that is only accepted is not judged", async () => {
    const stream = rawStream(client);
    await stream.ack;
    const lost = await runOne(stream);
    edge.operations.attempts.set(lost.attemptId, { fence: 99n, state: "running" });
    const accepted = { attemptId: makeId("a"), fence: 5n, state: HeldState.HELD_STATE_ACCEPTED };
    beat(stream, 1n, [running(lost), accepted]);
    await until("the acknowledgement arrives", () => of(stream, "heartbeatAck").length === 1);
    expect(of(stream, "heartbeatAck")[0]?.stops).toEqual([
      { attemptId: lost.attemptId, fence: lost.fence, reason: StopReason.STOP_REASON_LEASE_LOST },
    ]);
  });

  test("a cancel reaches the host at the bell and is repeated until the attempt is gone", async () => {
    const stream = rawStream(client);
    await stream.ack;
    const { attemptId, fence } = await runOne(stream);
    host().stops.push({ attemptId, fence, reason: "cancelled" });
    edge.ring(identity.hostId);
    await until("the stop arrives", () => of(stream, "stop").length === 1);
    const stop = { attemptId, fence, reason: StopReason.STOP_REASON_CANCELLED };
    expect(of(stream, "stop")[0]).toEqual(stop);
    beat(stream, 1n, [running({ attemptId, fence })]);
    await until("it is repeated", () => of(stream, "heartbeatAck").length === 1);
    expect(of(stream, "heartbeatAck")[0]?.stops).toEqual([stop]);
    host().stops.length = 0;
    beat(stream, 2n, []);
    await until("the next acknowledgement arrives", () => of(stream, "heartbeatAck").length === 2);
    expect(of(stream, "heartbeatAck")[1]?.stops).toEqual([]);
  });

  test("without any bell the poll still brings the offer", async () => {
    const stream = rawStream(client);
    await stream.ack;
    const given = offer();
    host().offers.push(given);
    await until("the poll brings it", () => of(stream, "offer").length === 1, 6000);
  });

  test("live progress is passed on at most twice a second, newest last, and only for attempts that run here", async () => {
    const stream = rawStream(client);
    await stream.ack;
    const { attemptId, fence } = await runOne(stream);
    const say = (id: string, fraction: number) =>
      stream.send({
        $case: "progress",
        value: { attemptId: id, fence, fraction, speed: 2, etaMs: -1n, step: "drawing\u0000" },
      });
    say(makeId("a"), 0.9);
    for (let n = 1; n <= 40; n++) say(attemptId, n / 40);
    await until("the newest is passed on", () => edge.progress.length === 2);
    expect(edge.progress).toEqual([
      { attemptId, hostId: identity.hostId, fraction: 0.025, speed: 2, etaMs: null, step: "drawing" },
      { attemptId, hostId: identity.hostId, fraction: 1, speed: 2, etaMs: null, step: "drawing" },
    ]);
    beat(stream, 1n, [running({ attemptId, fence })]);
    await until("it is stored with the lease", () => edge.operations.renewals.length === 1);
    expect(edge.operations.renewals[0]?.[0]).toMatchObject({ attemptId, progress: 1, step: "drawing", etaMs: null });
  });

  test("goodbye ends the stream with OK and a cut connection is seen too; both ends are stored once", async () => {
    const stream = rawStream(client);
    await stream.ack;
    stream.send({ $case: "goodbye", value: { reason: "restart" } });
    expect(await stream.ended).toBeUndefined();
    const cut = rawStream(client);
    await cut.ack;
    cut.call.cancel();
    await until("both ends are stored", () => edge.operations.callsOf("closeSession").length === 2);
    expect(edge.operations.callsOf("closeSession")).toEqual([
      { hostId: identity.hostId, epoch: 1n },
      { hostId: identity.hostId, epoch: 2n },
    ]);
  });

  test("a second stream of the host supersedes the first, whose end is not told to the store", async () => {
    const first = rawStream(client);
    await first.ack;
    const second = rawStream(connect(identity));
    expect((await second.ack).epoch).toBe(2n);
    expect(codeOf(await first.ended)).toBe("10 superseded");
    beat(second, 1n, []);
    await until("the second goes on", () => of(second, "heartbeatAck").length === 1);
    expect(edge.operations.callsOf("closeSession")).toEqual([]);
  });

  test("a session that was opened at another replica ends the one here", async () => {
    const stream = rawStream(client);
    await stream.ack;
    host().epoch = 40n;
    beat(stream, 1n, []);
    expect(codeOf(await stream.ended)).toBe("10 superseded");
  });

  test("stopping tells every host to come back and stores the ends", async () => {
    const stream = rawStream(client);
    await stream.ack;
    await edge.stop();
    expect(codeOf(await stream.ended)).toBe("14 unavailable");
    expect(edge.operations.callsOf("closeSession")).toHaveLength(1);
  });
});

describe("while the database is away", () => {
  test("heartbeats wait and streams stay; the acknowledgement follows when it is back", async () => {
    const stream = rawStream(client);
    await stream.ack;
    const attempt = await runOne(stream);
    edge.operations.isAway = true;
    beat(stream, 1n, [running(attempt)]);
    const seen = () => edge.operations.callsOf("recordHealth").length;
    await until("a renewal was tried twice", () => seen() >= 2);
    expect(of(stream, "heartbeatAck")).toEqual([]);
    edge.operations.isAway = false;
    await until("it is acknowledged", () => of(stream, "heartbeatAck").length === 1);
    expect(of(stream, "heartbeatAck")[0]).toMatchObject({ sequence: 1n, stops: [] });
  });

  test("an accept is tried again until it is stored", async () => {
    const stream = rawStream(client);
    await stream.ack;
    const { attemptId, fence } = await giveOffer(stream);
    edge.operations.isAway = true;
    stream.send({
      $case: "offerAnswer",
      value: { attemptId, fence, accepted: true, refusal: Refusal.REFUSAL_UNSPECIFIED, reason: "" },
    });
    await until("it was tried", () => edge.operations.callsOf("acceptOffer").length === 1);
    edge.operations.isAway = false;
    await until("the start arrives", () => of(stream, "start").length === 1);
  });

  test("a completion is answered UNAVAILABLE with a time to come back", async () => {
    edge.operations.isAway = true;
    const failed = (await complete({}).catch((error: unknown) => error)) as ServiceError;
    expect(failed.code).toBe(14);
    expect(failed.metadata.get(codeKey)).toEqual(["unavailable"]);
    expect(failed.metadata.get(retryAfterKey)).toEqual(["50"]);
  });
});

describe("completions", () => {
  test("a success is passed on with its host, and heartbeats that still name it are not answered with a stop", async () => {
    const stream = rawStream(client);
    await stream.ack;
    const { attemptId, fence } = await runOne(stream);
    const output = { name: "a.mp4", sha256: "a".repeat(64), sizeBytes: 5n, mediaType: "video/mp4" };
    const answer = await complete({ attemptId, fence, result: '{"x":"a\\u0000b"}', outputs: [output] });
    expect(answer.applied).toBe(true);
    expect(edge.operations.ends[0]).toMatchObject({
      attemptId,
      hostId: identity.hostId,
      outcome: "succeeded",
      result: { x: "ab" },
      outputs: [{ ...output, sizeBytes: 5 }],
      failure: null,
    });
    beat(stream, 1n, [running({ attemptId, fence })]);
    await until("the acknowledgement arrives", () => of(stream, "heartbeatAck").length === 1);
    expect(of(stream, "heartbeatAck")[0]?.stops).toEqual([]);
    expect((await complete({ attemptId, fence })).applied).toBe(false);
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
    for (const report of bad) await complete({ ...report, usage: [use] });
    expect(edge.operations.ends).toHaveLength(bad.length);
    for (const end of edge.operations.ends)
      expect(end).toMatchObject({ outcome: "failed", failure: { failureClass: "agent_bug" }, usage: [use] });
    expect(edge.operations.ends[0]?.failure?.message).toBe(
      "the agent's report cannot be used: the result is not JSON; upgrade the agent",
    );
  });

  test("a failure class that this version does not know is kept as unknown with its text", async () => {
    const failure = { failureClass: "solar_flare", message: "bits flipped", evidence: "e", exit: "1" };
    await complete({ outcome: Outcome.OUTCOME_FAILED, failure });
    expect(edge.operations.ends[0]).toMatchObject({
      outcome: "failed",
      failure: { failureClass: "unknown", severity: "low", message: "bits flipped", exit: "1" },
    });
  });
});

describe("misbehaviour of one host", () => {
  const expectOthersLive = async () => {
    const other = await rawEnrol(edge, edge.operations.issueToken(), { name: `n${Math.random()}`.replace("0.", "") });
    const stream = rawStream(connect(other));
    await stream.ack;
    beat(stream, 1n, []);
    await until("another host is served", () => of(stream, "heartbeatAck").length === 1);
  };
  /** A stream whose messages are written as they are. */
  const rawBytes = (bytes: Buffer) => {
    const call = client.makeBidiStreamRequest(
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
    const failed = await rawStream(client, first).ended;
    expect(codeOf(failed)).toBe("3 invalid_request");
    expect(failed?.details).toBe(text);
    await expectOthersLive();
  });

  test("another protocol version and a second Hello are refused", async () => {
    const old = await rawStream(client, hello({ protocolMin: 7, protocolMax: 9 })).ended;
    expect(codeOf(old)).toBe("9 protocol_unsupported");
    const stream = rawStream(client);
    await stream.ack;
    stream.send(hello());
    expect(codeOf(await stream.ended)).toBe("3 invalid_request");
  });

  test("a host that reads nothing is cut off at the limit instead of filling memory", async () => {
    await edge.stop();
    await start({ maxQueued: 10 });
    const stream = rawStream(client);
    await stream.ack;
    stream.call.pause();
    for (let n = 0; n < 120; n++) {
      host().offers.push(offer({ request: { script: "x".repeat(60_000) } }));
    }
    edge.ring(identity.hostId);
    await until("the session is closed", () => edge.operations.callsOf("closeSession").length === 1);
    await expectOthersLive();
    stream.call.resume();
    expect(codeOf(await stream.ended)).toBe("8 storage_full");
  });

  test("an offer that is too large for the wire ends its attempt and not the stream", async () => {
    const stream = rawStream(client);
    await stream.ack;
    const large = offer({ request: { script: "x".repeat(300_000) } });
    edge.operations.attempts.set(large.attemptId, { fence: 1n, state: "offered" });
    host().offers.push(large);
    const small = await giveOffer(stream);
    await until("its attempt has ended", () => edge.operations.ends.length === 1);
    expect(edge.operations.ends[0]).toMatchObject({
      attemptId: large.attemptId,
      outcome: "failed",
      failure: { failureClass: "input_invalid" },
    });
    expect(of(stream, "offer").map((o) => o.attemptId)).toEqual([small.attemptId]);
  });
});
