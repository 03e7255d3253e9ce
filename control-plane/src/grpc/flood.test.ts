// Hostile traffic on real sockets: floods, thousands of messages that are noise or nearly right, and faults in every operation at once.
// Only the guilty stream ends, the other hosts keep their answers and their round trip, and memory comes back.
import { randomBytes } from "node:crypto";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import type { ServiceError } from "@grpc/grpc-js";
import { SessionRequest } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import { retryAfterKey } from "@renderplane/proto/kernel/error-metadata.ts";
import { afterEach, beforeEach, expect, test } from "vitest";
import type { GrpcOperations } from "./operations.ts";
import { codeOf, hello, type RawStream, rawEnrol, rawStream, until } from "./testing.ts";
import { makeId } from "./testing-operations.ts";
import { beat, of, running, startWire, type Wire } from "./testing-wire.ts";

let wire: Wire;
beforeEach(async () => {
  wire = await startWire();
});
afterEach(() => wire.stop());

const secondHost = async () => {
  const identity = await rawEnrol(wire.edge, wire.edge.operations.issueToken(), { name: "beta" });
  const stream = rawStream(wire.connect(identity));
  await stream.ack;
  return stream;
};
let sequence = 0n;
/** How long one heartbeat takes to be acknowledged. */
const roundTripMs = async (stream: RawStream): Promise<number> => {
  const mine = ++sequence;
  const began = performance.now();
  beat(stream, mine, []);
  await until(
    "a heartbeat is acknowledged",
    () => of(stream, "heartbeatAck").some((ack) => ack.sequence === mine),
    30_000,
  );
  return performance.now() - began;
};
/** What is still held after a collection, without what the fake and the raw clients keep for the tests. */
const held = (...streams: RawStream[]) => {
  const { operations, progress } = wire.edge;
  const kept = [operations.calls, operations.renewals, operations.ends, progress];
  for (const list of [...kept, ...streams.flatMap((s) => [s.messages, s.frames])]) (list as unknown[]).length = 0;
  setFlagsFromString("--expose-gc");
  runInNewContext("gc")();
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
};

test("10,000 small messages a second end that session with a time to come back; another host's round trip stays short", async () => {
  const quiet = await secondHost();
  const loud = rawStream(wire.client);
  await loud.ack;
  let ended: ServiceError | undefined;
  void loud.ended.then((error) => {
    ended = error;
  });
  const progress = { attemptId: makeId("a"), fence: 1n, fraction: 0.5, speed: 1, etaMs: -1n, step: "noise" };
  const before = Math.max(await roundTripMs(quiet), await roundTripMs(quiet), await roundTripMs(quiet));
  const trips: number[] = [];
  const one = { message: { $case: "progress" as const, value: progress } };
  const many = { message: { $case: "batch" as const, value: { messages: Array.from({ length: 25 }, () => one) } } };
  for (let n = 0; n < 100; n++) loud.call.write(one);
  for (let sent = 0; sent < 60_000; sent += 25) loud.call.write(many);
  while (!ended && trips.length < 100) trips.push(await roundTripMs(quiet));
  expect(codeOf(ended)).toBe("8 rate_limited");
  expect(ended?.metadata.get(retryAfterKey)).toEqual(["10000"]);
  // Relative, because both sides share one process with the flood itself.
  expect(Math.max(...trips)).toBeLessThan(before * 10 + 2000);
  expect(await roundTripMs(quiet)).toBeLessThan(before * 10 + 2000);
});

/** A message that is right in its form and wrong in its content, from random numbers. */
const nearlyRight = (): SessionRequest["message"] => {
  const pick = <T>(...all: readonly T[]): T => all[Math.floor(Math.random() * all.length)] as T;
  const number = () => pick(0, -1, 1, Number.NaN, Number.POSITIVE_INFINITY, 1e308, Math.random());
  const fence = () => pick(0n, -1n, 1n, 2n ** 62n, -(2n ** 62n));
  const text = () => pick("", "a\u0000b", "😀".repeat(50), "'; drop table jobs", randomBytes(40).toString("latin1"));
  const attemptId = pick(makeId("a"), text());
  return pick<SessionRequest["message"]>(
    {
      $case: "progress",
      value: { attemptId, fence: fence(), fraction: number(), speed: number(), etaMs: fence(), step: text() },
    },
    {
      $case: "heartbeat",
      value: {
        sequence: fence(),
        attempts: [running({ attemptId: makeId("a"), fence: fence() })],
        health: {
          cpuUsed: number(),
          memoryUsedBytes: fence(),
          scratchFreeBytes: fence(),
          gpus: [],
          agentRssBytes: fence(),
          loadAverage: number(),
          unacknowledgedEnds: 1,
          isDraining: pick(true, false),
        },
      },
    },
    {
      $case: "batch",
      value: { messages: [{ message: undefined }, { message: { $case: "batch", value: { messages: [] } } }] },
    },
    {
      $case: "offerAnswer",
      value: {
        attemptId: makeId("a"),
        fence: fence(),
        accepted: pick(true, false),
        refusal: 99 as never,
        reason: text(),
      },
    },
    undefined,
  );
};

test("10,000 random messages and calls: each is answered or ends its own stream, and memory is where it was", {
  timeout: 120_000,
}, async () => {
  const quiet = await secondHost();
  const stream = rawStream(wire.client);
  await stream.ack;
  // Noise may be a Hello, which takes the host's place; so it comes from a host of its own.
  const noisy = wire.connect(await rawEnrol(wire.edge, wire.edge.operations.issueToken(), { name: "noisy" }));
  const unary = ["Complete", "CompleteMany", "PlaceOutputs", "RenewCertificate", "Nothing"];
  const call = (method: string, bytes: Buffer) =>
    new Promise<void>((resolve) => {
      const path = `/renderplane.v1.AgentService/${method}`;
      noisy.makeUnaryRequest(
        path,
        (b: Buffer) => b,
        (b: Buffer) => b,
        bytes,
        () => resolve(),
      );
    });
  const noise = (bytes: Buffer) =>
    new Promise<void>((resolve) => {
      const raw = noisy.makeBidiStreamRequest(
        "/renderplane.v1.AgentService/Session",
        (b: Buffer) => b,
        (b: Buffer) => b,
      );
      raw.on("error", () => resolve());
      raw.on("data", () => {});
      raw.write(bytes);
      raw.end();
      raw.on("end", () => resolve());
    });
  /** The bytes of a right message with one of them changed. */
  const flipped = () => {
    const bytes = Buffer.from(SessionRequest.encode({ message: nearlyRight() ?? hello() }).finish());
    if (bytes.length > 0) bytes[Math.floor(Math.random() * bytes.length)] = Math.floor(Math.random() * 256);
    return bytes;
  };
  const round = async () => {
    for (let n = 0; n < 250; n++) stream.call.write({ message: nearlyRight() });
    await Promise.all(
      Array.from({ length: 50 }, (_, n) =>
        n % 2 === 0
          ? call(unary[n % unary.length] ?? "", randomBytes(Math.floor(Math.random() * 200)))
          : noise(n % 4 === 1 ? flipped() : randomBytes(Math.floor(Math.random() * 200))),
      ),
    );
    // The noisy stream has taken all of it, too.
    await roundTripMs(stream);
    return roundTripMs(quiet);
  };
  for (let n = 0; n < 8; n++) await round();
  const before = held(quiet, stream);
  const trips: number[] = [];
  for (let n = 0; n < 32; n++) trips.push(await round());
  const grown = held(quiet, stream) - before;
  expect(wire.edge.edge.levels().waitingMessages).toBe(0);
  expect(trips).toHaveLength(32);
  // Keeping every message would be more than twice this.
  expect(grown).toBeLessThan(4 * 1024 * 1024);
});

test("a fault in any operation ends a call or a stream with INTERNAL and without its text, never the process", async () => {
  const quiet = await secondHost();
  const names = [
    "openSession",
    "takeOffers",
    "takeStops",
    "acceptOffer",
    "finishAttempt",
    "placeOutputs",
    "renewLeases",
  ] as const;
  const stream = rawStream(wire.client);
  await stream.ack;
  const good: Partial<GrpcOperations> = {};
  for (const name of names) {
    good[name] = wire.edge.operations[name] as never;
    const fail = () => {
      throw new TypeError("secret of the control plane");
    };
    Object.assign(wire.edge.operations, { [name]: fail });
  }
  const lease = { attemptId: makeId("a"), fence: 1n };
  stream.send({ $case: "offerAnswer", value: { ...lease, accepted: true, refusal: 0, reason: "" } as never });
  stream.send({ $case: "offerAnswer", value: { ...lease, accepted: false, refusal: 1, reason: "" } as never });
  wire.edge.ring(wire.identity.hostId);
  const failed = (await wire.complete(lease).catch((error: unknown) => error)) as ServiceError;
  expect(codeOf(failed)).toBe("13 internal");
  expect(failed.details).not.toContain("secret");
  const refused = await rawStream(wire.connect(wire.identity)).ended;
  expect(codeOf(refused)).toBe("13 internal");
  Object.assign(wire.edge.operations, good);
  beat(stream, 500n, []);
  await until("the stream goes on", () => of(stream, "heartbeatAck").some((ack) => ack.sequence === 500n));
  await roundTripMs(quiet);
});
