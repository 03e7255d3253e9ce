// One stream from its first message to its end: Hello is answered before anything else is sent, messages of the agent are taken
// in order, one by one or from a batch, and exactly one end is told to the store. Heartbeats and progress are only noted here;
// renew.ts answers them. Nothing in this file may throw out of a callback: that would end the process for all hosts.
import { Metadata, type ServerDuplexStream } from "@grpc/grpc-js";
import type { Hello, SessionRequest } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { maxMessagesPerBatch, protocolVersion, type Timings } from "@renderplane/proto/kernel/limits.ts";
import type { Logger } from "@renderplane/proto/kernel/process/logger.ts";
import { cleanText, heldRecords, inventoryRecord, verdictMessage } from "./convert.ts";
import { statusOf } from "./errors.ts";
import { createInboundLimit } from "./inbound.ts";
import { type Delivery, knownAttempt, type LiveSession } from "./live-session.ts";
import type { GrpcOperations } from "./operations.ts";
import { createOutbound, type OutboundLimits } from "./outbound.ts";
import { peerOf } from "./peer.ts";
import { type LiveProgress, type Said, takeMessage } from "./take-message.ts";
import { superseded } from "./watch.ts";

/** What arrives with its size on the wire; what leaves is encoded already. */
export type Arrival = { readonly message: SessionRequest["message"]; readonly size: number };
export type SessionCall = ServerDuplexStream<Arrival, Buffer>;

/** What a stream needs of the edge around it. */
export type SessionHall = {
  readonly operations: Pick<GrpcOperations, "openSession">;
  readonly timings: Timings;
  readonly log: Logger;
  readonly limits: OutboundLimits;
  /** Resolves when the Hello of this host may be answered; throws when too many arrive. */
  admit(hostId: string): Promise<void>;
  /** The replicas that are up, this one first. */
  addresses(): readonly string[];
  /** The session is open: it gets its delivery, takes the host's place and hears its bells. Returns the older session. */
  enter(session: LiveSession): { readonly delivery: Delivery; readonly older: LiveSession | undefined };
  /** The session is over. */
  leave(session: LiveSession, saidGoodbye: boolean): void;
  progressed(progress: LiveProgress): void;
};

/** A stream that says no Hello for this long is closed: it holds memory and a place for nothing. */
const helloLimitMs = 10_000;
/** The first protocol that knows batches and Move. */
const batchProtocol = 2;

export const serveSession = (call: SessionCall, hall: SessionHall): void => {
  let session: LiveSession | undefined;
  let delivery: Delivery | undefined;
  let state: "new" | "opening" | "open" | "over" = "new";
  let log = hall.log;
  const limit = createInboundLimit();
  const answers = { inWork: 0 };

  // At once, so that the agent keeps no messages for a retry that never comes.
  call.sendMetadata(new Metadata());
  const helloTimer = setTimeout(
    () => end(new RenderplaneError("invalid_request", `no Hello arrived within ${helloLimitMs / 1000} s`)),
    helloLimitMs,
  );
  const outbound = createOutbound({
    write: (bytes, taken) => call.write(bytes, taken),
    limits: hall.limits,
    onFailure: (cause) => end(cause === "overflow" ? tooManyWait() : cause),
  });

  /** The one end: with an error, or with OK when there is none. */
  const end = (error?: Error, saidGoodbye = false) => {
    if (state === "over") return;
    state = "over";
    clearTimeout(helloTimer);
    outbound.close();
    if (session) {
      hall.leave(session, saidGoodbye);
      log.info({ reason: error ? error.message : saidGoodbye ? "goodbye" : "the stream ended" }, "session closed");
    }
    if (call.cancelled) return;
    if (error) call.emit("error", statusOf(error, hall.log));
    else call.end();
    // What the agent still sends is read away, so that the stream can finish.
    call.resume();
  };

  const open = async (hello: Hello) => {
    const { hostId, serial } = peerOf(call);
    await hall.admit(hostId);
    // The host may have given up while it waited for its turn.
    if (state !== "opening") return;
    const { epoch, verdicts } = await hall.operations.openSession({
      hostId,
      serial,
      instanceId: cleanText(hello.instanceId),
      agentVersion: cleanText(hello.agentVersion),
      protocolMin: hello.protocolMin,
      protocolMax: hello.protocolMax,
      inventory: inventoryRecord(hello.inventory),
      attempts: heldRecords(hello.attempts),
    });
    log = hall.log.child({ hostId, epoch: String(epoch) });
    const opened: LiveSession = {
      hostId,
      epoch,
      serial,
      protocol: Math.min(protocolVersion, hello.protocolMax),
      heartbeat: undefined,
      health: {},
      attempts: new Map(),
      isLeaving: false,
      send: outbound.send,
      room: outbound.room,
      waiting: outbound.waiting,
      blockedMs: outbound.blockedMs,
      close: end,
    };
    for (const { attemptId, fence, action } of verdicts)
      if (action !== "abandon") knownAttempt(opened, attemptId, fence).isRunning = action === "continue";
    session = opened;
    const entered = hall.enter(opened);
    delivery = entered.delivery;
    entered.older?.close(superseded());
    // The stream may have died while the store answered.
    if (state !== "opening") return hall.leave(opened, false);
    state = "open";
    opened.send(
      {
        $case: "helloAck",
        value: {
          hostId,
          epoch,
          heartbeatMs: hall.timings.heartbeatMs,
          leaseMs: hall.timings.leaseMs,
          verdicts: verdicts.map(verdictMessage),
          serverMs: BigInt(Date.now()),
          protocol: opened.protocol,
          addresses: [...hall.addresses()],
        },
      },
      "verdict",
    );
    if (opened.protocol >= batchProtocol) outbound.batch();
    const facts = { agentVersion: cleanText(hello.agentVersion), protocol: opened.protocol, held: verdicts.length };
    log.info(facts, "session opened");
    delivery.ring();
  };

  const take = (message: Said, on: LiveSession, by: Delivery) =>
    takeMessage(message, on, { delivery: by, progressed: hall.progressed, answers, log });

  const arrive = ({ message, size }: Arrival) => {
    // A message that this version does not know: newer agents may say more.
    if (!message || state === "over") return limit(1, size);
    limit(message.$case === "batch" ? Math.max(1, message.value.messages.length) : 1, size);
    if (state === "open" && session && delivery) {
      if (message.$case !== "batch")
        return message.$case === "goodbye" ? end(undefined, true) : take(message, session, delivery);
      if (session.protocol < batchProtocol || message.value.messages.length > maxMessagesPerBatch) throw badBatch();
      for (const { message: one } of message.value.messages) {
        // The end of the stream is checked again: any message may have been its last.
        if (!one || one.$case === "batch" || !session || isOver()) continue;
        if (one.$case === "goodbye") return end(undefined, true);
        take(one, session, delivery);
      }
      return;
    }
    if (state !== "new" || message.$case !== "hello")
      throw new RenderplaneError("invalid_request", `the first message must be Hello, got ${message.$case}`);
    state = "opening";
    clearTimeout(helloTimer);
    // Nothing is read until the session is open; the transport holds it back.
    call.pause();
    open(message.value).then(
      () => call.resume(),
      (error: unknown) => end(error as Error),
    );
  };
  const isOver = () => state === "over";

  call.on("data", (arrival: Arrival) => {
    try {
      arrive(arrival);
    } catch (error) {
      end(error as Error);
    }
  });
  call.on("end", () => end());
  call.on("cancelled", () => end());
};

const tooManyWait = () => new RenderplaneError("storage_full", "the host does not read its messages; too many wait");
const badBatch = () =>
  new RenderplaneError(
    "invalid_request",
    `a batch has at most ${maxMessagesPerBatch} messages and needs protocol ${batchProtocol}`,
  );
