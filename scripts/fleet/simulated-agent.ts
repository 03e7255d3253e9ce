// One simulated host on a real connection: mTLS of its own, Hello, heartbeats, offers, ends, and the way back after a loss, paced as
// a real agent paces it. It speaks both protocols. What it can be made to suffer is a loss of the stream, a restart of the
// process with or without its journal, and silence: a host that is gone without a word.
import { type ClientDuplexStream, Metadata, type ServiceError } from "@grpc/grpc-js";
import type {
  AgentServiceClient,
  SessionRequest,
  SessionResponse,
} from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import type { Inventory } from "@renderplane/proto/gen/renderplane/v1/types.ts";
import type { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { maxMessagesPerBatch, oldestProtocol, protocolVersion } from "@renderplane/proto/kernel/limits.ts";
import { decodeTime } from "ulid";
import { openClient } from "../../agent/src/link/client.ts";
import { fromGrpc } from "../../agent/src/link/errors.ts";
import type { Identity } from "../../agent/src/link/identity.ts";
import { createComeback, defaultPace, heartbeatPeriodMs } from "../../agent/src/link/pace.ts";
import type { Meter } from "./meter.ts";
import type { Random } from "./random.ts";
import type { Scenario } from "./scenario.ts";
import { createSimulatedEnds } from "./simulated-ends.ts";
import { createSimulatedWork, healthOf } from "./simulated-work.ts";

type Message = NonNullable<SessionRequest["message"]>;
type Stream = ClientDuplexStream<SessionRequest, SessionResponse>;

export type SimulatedAgent = {
  readonly name: string;
  readonly start: () => void;
  readonly isOpen: () => boolean;
  readonly running: () => number;
  readonly waitingEnds: () => number;
  /** The process ends and is started again at once; without its journal it comes back empty-handed. */
  readonly restart: (keepsJournal: boolean) => void;
  /** No power: nothing is sent or read any more, and nobody is told. */
  readonly vanish: () => void;
  /** After vanish: a new start that remembers nothing. */
  readonly comeBack: () => void;
  /** Says goodbye and ends. */
  readonly stop: () => void;
};

export type SimulatedAgentParts = {
  readonly name: string;
  readonly identity: Identity;
  /** host:port of the replicas; the first is tried first. */
  readonly addresses: readonly string[];
  readonly inventory: Inventory;
  readonly scenario: Pick<Scenario, "durations" | "failures" | "gpuSpeed">;
  readonly random: Random;
  readonly meter: Meter;
  /** The highest protocol that it says it speaks. */
  readonly protocolMax?: number;
  readonly onOffer?: (offer: { readonly jobId: string; readonly stage: string; readonly atMs: number }) => void;
};

export const createSimulatedAgent = (parts: SimulatedAgentParts): SimulatedAgent => {
  const { meter, random } = parts;
  const comeback = createComeback(defaultPace, random.next);
  const ends = createSimulatedEnds({ meter, acknowledged: (id) => work.acknowledged(id) });
  const work = createSimulatedWork({ ...parts, report: ends.add });
  let addresses = [...parts.addresses];
  let client: AgentServiceClient | undefined;
  let clientOf = "";
  let stream: Stream | undefined;
  let protocol = 0;
  let instance = 0;
  let sequence = 0n;
  let heartbeatMs = 0;
  let leaseMs = 0;
  let acknowledgedAt = 0;
  let state: "off" | "connecting" | "open" | "silent" | "waiting" = "off";
  let beatTimer: NodeJS.Timeout | undefined;
  let retryTimer: NodeJS.Timeout | undefined;
  const sentAt = new Map<bigint, number>();
  let outgoing: Message[] = [];

  /** Everything that is said in one turn of the event loop leaves as one message, when the other side understands that. */
  const say = (message: Message) => {
    outgoing.push(message);
    if (outgoing.length === 1) queueMicrotask(flush);
  };
  const flush = () => {
    const on = stream;
    const messages = outgoing;
    outgoing = [];
    if (!on || state !== "open") return;
    if (protocol < 2 || messages.length === 1) {
      for (const message of messages) on.write({ message });
      return;
    }
    for (let i = 0; i < messages.length; i += maxMessagesPerBatch) {
      const part = messages.slice(i, i + maxMessagesPerBatch).map((message) => ({ message }));
      on.write({ message: { $case: "batch", value: { messages: part } } });
    }
  };

  const beat = () => {
    const now = performance.now();
    // The host's own clock decides what it may go on with while nobody answers.
    if (leaseMs > 0) work.silentFor(now - acknowledgedAt, leaseMs - heartbeatMs);
    if (state !== "open") return;
    sequence += 1n;
    sentAt.set(sequence, now);
    meter.count("heartbeats");
    say({
      $case: "heartbeat",
      value: { sequence, attempts: work.held(), health: healthOf(work.running(), ends.waiting()) },
    });
    beatTimer = setTimeout(beat, heartbeatMs * (0.9 + random.next() * 0.2));
  };

  const take = (message: NonNullable<SessionResponse["message"]>) => {
    switch (message.$case) {
      case "batch":
        for (const inner of message.value.messages)
          if (inner.message && inner.message.$case !== "batch") take(inner.message);
        return;
      case "offer": {
        const offer = message.value;
        const atMs = performance.timeOrigin + performance.now();
        parts.onOffer?.({ jobId: offer.jobId, stage: offer.stage, atMs });
        // The id of a job says when it was submitted (on the control plane's clock, which is this machine's).
        if (offer.results === "{}" && offer.number === 1)
          meter.time("firstOffer", Math.max(0, atMs - submittedMs(offer.jobId)));
        return say({ $case: "offerAnswer", value: work.offer(offer) });
      }
      case "start":
        return work.start(message.value.attemptId, message.value.fence);
      case "stop":
        return work.stop(message.value);
      case "heartbeatAck": {
        const { sequence: acknowledged, nextHeartbeatMs, stops } = message.value;
        const at = sentAt.get(acknowledged);
        for (const older of sentAt.keys()) if (older <= acknowledged) sentAt.delete(older);
        if (at !== undefined) {
          acknowledgedAt = at;
          meter.time("rtt", performance.now() - at);
        }
        if (nextHeartbeatMs > 0) heartbeatMs = heartbeatPeriodMs(nextHeartbeatMs);
        for (const stop of stops) work.stop(stop);
        return;
      }
      case "move": {
        const { address, withinMs } = message.value;
        addresses = address === "" ? rotated(addresses) : [address, ...addresses.filter((a) => a !== address)];
        clearTimeout(retryTimer);
        retryTimer = setTimeout(() => leave(0), random.next() * Math.max(0, withinMs));
        return;
      }
    }
  };

  const connect = () => {
    if (state === "off" || state === "silent") return;
    state = "connecting";
    const address = addresses[0] ?? "";
    if (!client || clientOf !== address) {
      client?.close();
      client = openClient(address, parts.identity);
      clientOf = address;
    }
    const began = performance.now();
    let openedAt = 0;
    let helloAt = 0;
    const call = client.session(new Metadata({ waitForReady: true }));
    stream = call;
    const over = (error: RenderplaneError | undefined) => {
      clearTimeout(limit);
      if (stream !== call) return;
      stream = undefined;
      call.cancel();
      meter.count(openedAt > 0 ? "disconnects" : "refusedHellos");
      // Another replica may be better off; one that asks for time is there and knows what it says.
      if (error?.retryAfterMs === undefined) addresses = rotated(addresses);
      leave(comeback({ error, livedMs: openedAt === 0 ? 0 : performance.now() - openedAt }));
    };
    const limit = setTimeout(() => over(undefined), defaultPace.helloLimitMs);
    call.on("metadata", () => {
      helloAt = performance.now();
      call.write({
        message: {
          $case: "hello",
          value: {
            instanceId: `${parts.name}-${instance}`,
            agentVersion: "simulated",
            protocolMin: oldestProtocol,
            protocolMax: parts.protocolMax ?? protocolVersion,
            inventory: parts.inventory,
            attempts: work.held(),
          },
        },
      });
    });
    call.on("data", ({ message }: SessionResponse) => {
      if (!message || stream !== call || state === "silent") return;
      if (message.$case !== "helloAck") return state === "open" ? take(message) : undefined;
      clearTimeout(limit);
      openedAt = performance.now();
      acknowledgedAt = helloAt;
      state = "open";
      ({ heartbeatMs, leaseMs } = message.value);
      protocol = Math.max(1, message.value.protocol);
      if (message.value.addresses.length > 0)
        addresses = [...new Set([address, ...message.value.addresses, ...addresses])];
      meter.count("sessions");
      meter.time("connect", openedAt - began);
      work.judge(message.value.verdicts);
      ends.use(client, protocol);
      sentAt.clear();
      clearTimeout(beatTimer);
      // Spread over a period from the first one on: a fleet that came back together does not beat together.
      beatTimer = setTimeout(beat, heartbeatMs * random.next());
    });
    call.on("error", (error: ServiceError) => over(fromGrpc(error)));
    call.on("end", () => setImmediate(() => over(undefined)));
  };

  /** Ends what is open and comes back after a pause. */
  const leave = (pauseMs: number) => {
    const old = stream;
    stream = undefined;
    old?.cancel();
    clearTimeout(beatTimer);
    clearTimeout(retryTimer);
    if (state === "off" || state === "silent") return;
    state = "waiting";
    // Without a stream its own clock goes on.
    beatTimer = setTimeout(beat, Math.max(heartbeatMs, leaseMs - heartbeatMs));
    retryTimer = setTimeout(connect, pauseMs);
  };
  const close = () => {
    for (const timer of [beatTimer, retryTimer]) clearTimeout(timer);
    const old = stream;
    stream = undefined;
    old?.cancel();
    client?.close();
    client = undefined;
    ends.use(undefined, 1);
  };
  const begin = () => {
    instance++;
    state = "connecting";
    connect();
  };

  return {
    name: parts.name,
    start: () => {
      if (state === "off") begin();
    },
    isOpen: () => state === "open",
    running: work.running,
    waitingEnds: ends.waiting,
    restart: (keepsJournal) => {
      if (state === "off" || state === "silent") return;
      if (!keepsJournal) {
        work.forget();
        ends.forget();
      }
      close();
      begin();
    },
    vanish: () => {
      if (state === "off") return;
      // The socket stays: packets of a host without power are not answered with a reset.
      state = "silent";
      for (const timer of [beatTimer, retryTimer]) clearTimeout(timer);
      ends.use(undefined, 1);
      work.forget();
      ends.forget();
    },
    comeBack: () => {
      if (state !== "silent") return;
      close();
      begin();
    },
    stop: () => {
      if (state === "open") stream?.write({ message: { $case: "goodbye", value: { reason: "the simulation ends" } } });
      stream?.end();
      stream = undefined;
      state = "off";
      work.forget();
      ends.forget();
      close();
    },
  };
};

const rotated = (addresses: readonly string[]): string[] => [...addresses.slice(1), ...addresses.slice(0, 1)];

const submittedMs = (jobId: string): number => decodeTime(jobId.slice(2));
