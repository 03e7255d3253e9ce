// One stream from its first message to its end: Hello is answered before anything else is sent, messages of the agent are taken
// in order, and exactly one end is told to the store. Heartbeats and progress are only noted here; renew.ts answers them.
// Nothing in this file may throw out of a callback: that would end the process for all hosts.
import type { ServerDuplexStream } from "@grpc/grpc-js";
import { Metadata } from "@grpc/grpc-js";
import type { Hello, SessionRequest, SessionResponse } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { maxQueuedMessages, protocolVersion, type Timings } from "@renderplane/proto/kernel/limits.ts";
import { boundedWriter } from "@renderplane/proto/kernel/process/bounded-writer.ts";
import type { Logger } from "@renderplane/proto/kernel/process/logger.ts";
import { cleanText, healthRecord, heldRecords, inventoryRecord, verdictMessage } from "./convert.ts";
import { statusOf } from "./errors.ts";
import { type Delivery, forgetGone, type LiveSession } from "./live-session.ts";
import type { GrpcOperations } from "./operations.ts";
import { peerOf } from "./peer.ts";
import { fractionOf, superseded } from "./renew.ts";

export type SessionCall = ServerDuplexStream<SessionRequest, SessionResponse>;

export type LiveProgress = {
  readonly attemptId: string;
  readonly hostId: string;
  /** 0..1 of the attempt. */
  readonly fraction: number;
  readonly speed: number;
  /** null: unknown. */
  readonly etaMs: number | null;
  readonly step: string;
};

/** What a stream needs of the edge around it. */
export type SessionHall = {
  readonly operations: GrpcOperations;
  readonly timings: Timings;
  readonly log: Logger;
  readonly maxQueued?: number;
  /** Throws when too many Hellos arrive. */
  admit(): void;
  /** The session is open: it gets its delivery, takes the host's place and hears its bells. Returns the older session. */
  enter(session: LiveSession): { readonly delivery: Delivery; readonly older: LiveSession | undefined };
  /** The session is over. */
  leave(session: LiveSession): void;
  progressed(progress: LiveProgress): void;
};

/** A stream that says no Hello for this long is closed: it holds memory and a place for nothing. */
const helloLimitMs = 10_000;
/** Answers to offers in work at once; a host is never offered more. More than this is a peer that floods. */
const maxAnswers = 256;

export const serveSession = (call: SessionCall, hall: SessionHall): void => {
  let session: LiveSession | undefined;
  let delivery: Delivery | undefined;
  let state: "new" | "opening" | "open" | "over" = "new";
  let answers = 0;
  let log = hall.log;

  // At once, so that the agent keeps no messages for a retry that never comes.
  call.sendMetadata(new Metadata());
  const helloTimer = setTimeout(
    () => end(new RenderplaneError("invalid_request", `no Hello arrived within ${helloLimitMs / 1000} s`)),
    helloLimitMs,
  );
  const writer = boundedWriter<SessionResponse>({
    write: (message) => call.write(message),
    onDrain: (resume) => call.on("drain", resume),
    max: hall.maxQueued ?? maxQueuedMessages,
    onOverflow: () => end(new RenderplaneError("storage_full", "the host does not read its messages; too many wait")),
  });

  /** The one end: with an error, or with OK when there is none. */
  const end = (error?: RenderplaneError | Error) => {
    if (state === "over") return;
    state = "over";
    clearTimeout(helloTimer);
    writer.close();
    if (session) {
      hall.leave(session);
      log.info({ reason: error ? error.message : "goodbye" }, "session closed");
    }
    if (call.cancelled) return;
    if (error) call.emit("error", statusOf(error, hall.log));
    else call.end();
    // What the agent still sends is read away, so that the stream can finish.
    call.resume();
  };

  const open = async (hello: Hello) => {
    hall.admit();
    const { hostId, serial } = peerOf(call);
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
      heartbeat: undefined,
      health: {},
      progress: new Map(),
      running: new Map(verdicts.filter((v) => v.action === "continue").map((v) => [v.attemptId, v.fence])),
      stops: new Map(),
      ended: new Set(),
      send: (message, options) => writer.send({ message }, options),
      blockedMs: () => writer.blockedMs(),
      close: end,
    };
    session = opened;
    const { heartbeatMs, leaseMs } = hall.timings;
    const entered = hall.enter(opened);
    delivery = entered.delivery;
    entered.older?.close(superseded());
    // The stream may have died while the store answered.
    if (state !== "opening") return hall.leave(opened);
    state = "open";
    opened.send({
      $case: "helloAck",
      value: {
        hostId,
        epoch,
        heartbeatMs,
        leaseMs,
        verdicts: verdicts.map(verdictMessage),
        serverMs: BigInt(Date.now()),
        protocol: Math.min(protocolVersion, hello.protocolMax),
        addresses: [],
      },
    });
    log.info({ agentVersion: cleanText(hello.agentVersion), held: hello.attempts.length }, "session opened");
    delivery.ring();
  };

  const take = (message: NonNullable<SessionRequest["message"]>, on: LiveSession) => {
    switch (message.$case) {
      case "hello":
        throw new RenderplaneError("invalid_request", "a second Hello arrived; a stream has exactly one");
      case "heartbeat": {
        const held = heldRecords(message.value.attempts);
        if (message.value.health) on.health = healthRecord(message.value.health);
        on.heartbeat = { sequence: message.value.sequence, held };
        forgetGone(on, held);
        return;
      }
      case "progress": {
        const { attemptId, fence, fraction, speed, etaMs, step } = message.value;
        if (on.running.get(attemptId) !== fence) return;
        on.progress.set(attemptId, message.value);
        hall.progressed({
          attemptId,
          hostId: on.hostId,
          fraction: fractionOf(fraction),
          speed: Number.isFinite(speed) ? Math.max(0, speed) : 0,
          etaMs: etaMs < 0n ? null : Number(etaMs),
          step: cleanText(step),
        });
        return;
      }
      case "offerAnswer": {
        if (answers >= maxAnswers)
          throw new RenderplaneError("invalid_request", `more than ${maxAnswers} answers to offers are in work`);
        answers++;
        void (async () => {
          try {
            await delivery?.answer(message.value);
          } catch (error) {
            // The offer's own time limit returns it to the queue; the stream goes on.
            log.warn({ err: error, attemptId: message.value.attemptId }, "an answer to an offer could not be stored");
          } finally {
            answers--;
          }
        })();
        return;
      }
      case "goodbye":
        return end();
    }
  };

  call.on("data", ({ message }: SessionRequest) => {
    try {
      // A message that this version does not know: newer agents may say more.
      if (!message || state === "over") return;
      if (state === "open" && session) return take(message, session);
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
    } catch (error) {
      end(error as Error);
    }
  });
  call.on("end", () => end());
  call.on("cancelled", () => end());
};
