// One session stream over real mutual TLS, message by message: offers, leases, stops and progress, supersession, and what becomes
// of it all while the database is away.
import type { ServiceError } from "@grpc/grpc-js";
import { HeldState, Refusal, StopReason } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import { codeKey, retryAfterKey } from "@renderplane/proto/kernel/error-metadata.ts";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { codeOf, fastTimings, rawEnrol, rawStream, until } from "./testing.ts";
import { makeId, offer } from "./testing-operations.ts";
import { answer, beat, of, running, startWire, type Wire } from "./testing-wire.ts";

let wire: Wire;
beforeEach(async () => {
  wire = await startWire();
});
afterEach(() => wire.stop());

describe("a session", () => {
  test("hello, offer, accept, start: nothing is sent before the answer to Hello", async () => {
    wire.host().offers.push(offer());
    const stream = rawStream(wire.client);
    const ack = await stream.ack;
    expect(ack).toMatchObject({ hostId: wire.identity.hostId, epoch: 1n, heartbeatMs: 100, leaseMs: 600 });
    await until("the waiting offer arrives", () => of(stream, "offer").length === 1);
    expect(stream.messages[0]?.$case).toBe("helloAck");
    await wire.runOne(stream);
    expect(wire.edge.operations.callsOf("acceptOffer")).toHaveLength(1);
  });

  test("an accept that comes too late is answered with a stop", async () => {
    const stream = rawStream(wire.client);
    await stream.ack;
    const given = await wire.giveOffer(stream);
    wire.edge.operations.attempts.set(given.attemptId, { fence: 2n, state: "offered" });
    const { attemptId, fence } = given;
    answer(stream, { attemptId, fence });
    await until("the stop arrives", () => of(stream, "stop").length === 1);
    expect(of(stream, "stop")[0]).toEqual({ attemptId, fence, reason: StopReason.STOP_REASON_LEASE_LOST });
    expect(of(stream, "start")).toEqual([]);
  });

  test("an accept that comes too late because the job is being cancelled gets that stop", async () => {
    const stream = rawStream(wire.client);
    await stream.ack;
    const { attemptId, fence } = await wire.giveOffer(stream);
    wire.edge.operations.attempts.set(attemptId, { fence, state: "ended" });
    wire.host().stops.push({ attemptId, fence, reason: "cancelled" });
    answer(stream, { attemptId, fence });
    await until("the stop arrives", () => of(stream, "stop").length === 1);
    expect(of(stream, "stop")[0]).toEqual({ attemptId, fence, reason: StopReason.STOP_REASON_CANCELLED });
  });

  test("a refusal ends the attempt as refused with the host's reason", async () => {
    const stream = rawStream(wire.client);
    await stream.ack;
    const { attemptId, fence } = await wire.giveOffer(stream);
    const reason = "12 GiB needed, 3 GiB free";
    answer(stream, { attemptId, fence }, Refusal.REFUSAL_DISK_LOW, reason);
    await until("the end is stored", () => wire.edge.operations.ends.length === 1);
    expect(wire.edge.operations.ends[0]).toMatchObject({
      attemptId,
      hostId: wire.identity.hostId,
      outcome: "refused",
      failure: { failureClass: "disk_full", message: `the scratch disk of the host is too full: ${reason}` },
    });
  });

  test("heartbeats of several hosts are renewed together and acknowledged by sequence", async () => {
    await wire.stop();
    wire = await startWire({ timings: { ...fastTimings, heartbeatMs: 2000 } });
    const other = await rawEnrol(wire.edge, wire.edge.operations.issueToken(), { name: "beta" });
    const [one, two] = [rawStream(wire.client), rawStream(wire.connect(other))];
    await Promise.all([one.ack, two.ack]);
    const a = await wire.runOne(one);
    beat(one, 7n, [running(a)]);
    beat(two, 9n, []);
    await until("both are acknowledged", () => of(one, "heartbeatAck").length + of(two, "heartbeatAck").length === 2);
    expect(of(one, "heartbeatAck")[0]).toMatchObject({ sequence: 7n, stops: [], nextHeartbeatMs: 200 });
    expect(of(two, "heartbeatAck")[0]?.sequence).toBe(9n);
    expect(wire.edge.operations.renewals).toEqual([
      [expect.objectContaining({ attemptId: a.attemptId, fence: a.fence })],
    ]);
    expect(wire.edge.operations.callsOf("recordHealth")[0]).toHaveLength(2);
  });

  test("a lost lease comes back as a stop in the acknowledgement; an offer that is only accepted is not judged", async () => {
    const stream = rawStream(wire.client);
    await stream.ack;
    const lost = await wire.runOne(stream);
    wire.edge.operations.attempts.set(lost.attemptId, { fence: 99n, state: "running" });
    const accepted = { attemptId: makeId("a"), fence: 5n, state: HeldState.HELD_STATE_ACCEPTED };
    beat(stream, 1n, [running(lost), accepted]);
    await until("the acknowledgement arrives", () => of(stream, "heartbeatAck").length === 1);
    expect(of(stream, "heartbeatAck")[0]?.stops).toEqual([
      { attemptId: lost.attemptId, fence: lost.fence, reason: StopReason.STOP_REASON_LEASE_LOST },
    ]);
  });

  test("a cancel reaches the host at the bell and is repeated until the attempt is gone", async () => {
    const stream = rawStream(wire.client);
    await stream.ack;
    const { attemptId, fence } = await wire.runOne(stream);
    wire.host().stops.push({ attemptId, fence, reason: "cancelled" });
    wire.edge.ring(wire.identity.hostId);
    await until("the stop arrives", () => of(stream, "stop").length === 1);
    const stop = { attemptId, fence, reason: StopReason.STOP_REASON_CANCELLED };
    expect(of(stream, "stop")[0]).toEqual(stop);
    beat(stream, 1n, [running({ attemptId, fence })]);
    await until("it is repeated", () => of(stream, "heartbeatAck").length === 1);
    expect(of(stream, "heartbeatAck")[0]?.stops).toEqual([stop]);
    wire.host().stops.length = 0;
    beat(stream, 2n, []);
    await until("the next acknowledgement arrives", () => of(stream, "heartbeatAck").length === 2);
    expect(of(stream, "heartbeatAck")[1]?.stops).toEqual([]);
  });

  test("without any bell the poll still brings the offer", async () => {
    const stream = rawStream(wire.client);
    await stream.ack;
    const given = offer();
    wire.host().offers.push(given);
    await until("the poll brings it", () => of(stream, "offer").length === 1, 6000);
  });

  test("live progress is passed on at most twice a second, newest last, and only for attempts that run here", async () => {
    const stream = rawStream(wire.client);
    await stream.ack;
    const { attemptId, fence } = await wire.runOne(stream);
    const say = (id: string, fraction: number) =>
      stream.send({
        $case: "progress",
        value: { attemptId: id, fence, fraction, speed: 2, etaMs: -1n, step: "drawing\u0000" },
      });
    say(makeId("a"), 0.9);
    for (let n = 1; n <= 40; n++) say(attemptId, n / 40);
    await until("the newest is passed on", () => wire.edge.progress.length === 2);
    expect(wire.edge.progress).toEqual([
      { attemptId, hostId: wire.identity.hostId, fraction: 0.025, speed: 2, etaMs: null, step: "drawing" },
      { attemptId, hostId: wire.identity.hostId, fraction: 1, speed: 2, etaMs: null, step: "drawing" },
    ]);
    beat(stream, 1n, [running({ attemptId, fence })]);
    await until("it is stored with the lease", () => wire.edge.operations.renewals.length === 1);
    expect(wire.edge.operations.renewals[0]?.[0]).toMatchObject({
      attemptId,
      progress: 1,
      step: "drawing",
      etaMs: null,
    });
  });

  test("a heartbeat that was put together before an attempt began does not silence its progress", async () => {
    const stream = rawStream(wire.client);
    await stream.ack;
    const { attemptId, fence } = await wire.runOne(stream);
    beat(stream, 1n, []);
    beat(stream, 2n, [running({ attemptId, fence })]);
    const value = { attemptId, fence, fraction: 0.5, speed: 2, etaMs: -1n, step: "drawing" };
    stream.send({ $case: "progress", value });
    await until("it is passed on", () => wire.edge.progress.length === 1);
    for (const sequence of [3n, 4n]) beat(stream, sequence, []);
    stream.send({ $case: "progress", value: { ...value, fraction: 0.9 } });
    beat(stream, 5n, []);
    await until("all were taken", () => of(stream, "heartbeatAck").some((ack) => ack.sequence === 5n));
    expect(wire.edge.progress).toHaveLength(1);
  });

  test("goodbye ends the stream with OK and a cut connection is seen too; both ends are stored once", async () => {
    const stream = rawStream(wire.client);
    await stream.ack;
    stream.send({ $case: "goodbye", value: { reason: "restart" } });
    expect(await stream.ended).toBeUndefined();
    const cut = rawStream(wire.client);
    await cut.ack;
    cut.call.cancel();
    await until("both ends are stored", () => wire.edge.operations.callsOf("closeSession").length === 2);
    expect(wire.edge.operations.callsOf("closeSession")).toEqual([
      { hostId: wire.identity.hostId, epoch: 1n, saidGoodbye: true },
      { hostId: wire.identity.hostId, epoch: 2n, saidGoodbye: false },
    ]);
  });

  test("a second stream of the host supersedes the first, whose end is not told to the store", async () => {
    const first = rawStream(wire.client);
    await first.ack;
    const second = rawStream(wire.connect(wire.identity));
    expect((await second.ack).epoch).toBe(2n);
    expect(codeOf(await first.ended)).toBe("10 superseded");
    beat(second, 1n, []);
    await until("the second goes on", () => of(second, "heartbeatAck").length === 1);
    expect(wire.edge.operations.callsOf("closeSession")).toEqual([]);
  });

  test("a session that was opened at another replica ends the one here", async () => {
    const stream = rawStream(wire.client);
    await stream.ack;
    wire.host().epoch = 40n;
    beat(stream, 1n, []);
    expect(codeOf(await stream.ended)).toBe("10 superseded");
  });

  test("stopping tells every host to come back and stores the ends", async () => {
    const stream = rawStream(wire.client);
    await stream.ack;
    await wire.stop();
    expect(codeOf(await stream.ended)).toBe("14 unavailable");
    expect(wire.edge.operations.callsOf("closeSession")).toHaveLength(1);
  });
});

describe("while the database is away", () => {
  test("heartbeats wait and streams stay; the acknowledgement follows when it is back", async () => {
    const stream = rawStream(wire.client);
    await stream.ack;
    const attempt = await wire.runOne(stream);
    wire.edge.operations.isAway = true;
    beat(stream, 1n, [running(attempt)]);
    const seen = () => wire.edge.operations.callsOf("recordHealth").length;
    await until("a renewal was tried twice", () => seen() >= 2);
    expect(of(stream, "heartbeatAck")).toEqual([]);
    wire.edge.operations.isAway = false;
    await until("it is acknowledged", () => of(stream, "heartbeatAck").length === 1);
    expect(of(stream, "heartbeatAck")[0]).toMatchObject({ sequence: 1n, stops: [] });
  });

  test("an accept is tried again until it is stored", async () => {
    const stream = rawStream(wire.client);
    await stream.ack;
    const { attemptId, fence } = await wire.giveOffer(stream);
    wire.edge.operations.isAway = true;
    answer(stream, { attemptId, fence });
    await until("it was tried", () => wire.edge.operations.callsOf("acceptOffer").length === 1);
    wire.edge.operations.isAway = false;
    await until("the start arrives", () => of(stream, "start").length === 1);
  });

  test("a completion is answered UNAVAILABLE with a time to come back", async () => {
    wire.edge.operations.isAway = true;
    const failed = (await wire.complete({}).catch((error: unknown) => error)) as ServiceError;
    expect(failed.code).toBe(14);
    expect(failed.metadata.get(codeKey)).toEqual(["unavailable"]);
    expect(failed.metadata.get(retryAfterKey)).toEqual(["50"]);
  });
});
