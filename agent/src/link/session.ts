// One session stream, from its connection to its end: Hello, then heartbeats out and offers, starts, stops and acknowledgements in.
// Time counts from when a heartbeat was SENT, so this host's idea of its leases always ends before the control plane's.
// Knows nothing of retries: link.ts opens the next stream. Work goes on while no stream is open. From protocol 2 on several messages
// may come and go in one; which protocol is spoken is in the answer to Hello.
import { performance } from "node:perf_hooks";
import { Metadata, type ServiceError } from "@grpc/grpc-js";
import type {
  AgentServiceClient,
  Health,
  HelloAck,
  Move,
  SessionResponse,
} from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import type { Inventory } from "@renderplane/proto/gen/renderplane/v1/types.ts";
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { oldestProtocol, protocolVersion } from "@renderplane/proto/kernel/limits.ts";
import type { Logger } from "@renderplane/proto/kernel/process/logger.ts";
import { type Rhythm, rhythm } from "@renderplane/proto/kernel/process/rhythm.ts";
import type { Supervisor } from "../work/contract.ts";
import { fromGrpc } from "./errors.ts";
import { createOutgoing, type Outgoing } from "./outgoing.ts";
import { heartbeatPeriodMs } from "./pace.ts";

export type SessionParts = {
  readonly client: AgentServiceClient;
  readonly supervisor: Supervisor;
  readonly instanceId: string;
  readonly agentVersion: string;
  readonly inventory: () => Inventory;
  readonly health: () => Promise<Health>;
  readonly helloLimitMs: number;
  /** Aborted: say goodbye and end. The reason's message is what is said. */
  readonly signal: AbortSignal;
  readonly log: Logger;
  /** The stream is open: messages go through `send` until the stream ends. */
  readonly onOpen: (send: (message: Outgoing, key?: string) => void, ack: HelloAck) => void;
  /** The replica asks to be left. */
  readonly onMove: (move: Move) => void;
};

export type SessionEnd = {
  /** undefined: ended on purpose. */
  readonly error: RenderplaneError | undefined;
  readonly wasOpen: boolean;
  readonly livedMs: number;
};

/** A sample of health that takes longer is left out; the heartbeat does not wait. */
const healthLimitMs = 1000;
/** Heartbeats whose acknowledgement is awaited; older ones count as lost. */
const maxUnacknowledged = 100;
/** The control plane answers a goodbye within this, or the stream is cut. */
const goodbyeLimitMs = 1000;

export const runSession = (parts: SessionParts): Promise<SessionEnd> =>
  new Promise((resolve) => {
    const { supervisor, log, signal } = parts;
    // Fails at once when nobody is there: another address may answer. The time limit for Hello covers what only hangs.
    const call = parts.client.session(new Metadata());
    const sentAt = new Map<bigint, number>();
    let openedAt: number | undefined;
    let helloSentAt = 0;
    let sequence = 0n;
    let heartbeatMs = 0;
    let heartbeats: Rhythm | undefined;
    let isOver = false;

    const outgoing = createOutgoing({
      write: (message) => call.write(message),
      onOverflow: () => end(new RenderplaneError("unavailable", "the control plane does not read its messages")),
    });
    call.on("drain", outgoing.resume);
    const { send } = outgoing;
    const end = (error: RenderplaneError | undefined) => {
      if (isOver) return;
      isOver = true;
      clearTimeout(helloTimer);
      clearTimeout(goodbyeTimer);
      signal.removeEventListener("abort", goodbye);
      outgoing.close();
      call.cancel();
      void heartbeats?.stop();
      if (openedAt !== undefined) guarded("onDisconnect", () => supervisor.onDisconnect());
      const livedMs = openedAt === undefined ? 0 : performance.now() - openedAt;
      resolve({ error, wasOpen: openedAt !== undefined, livedMs });
    };

    let goodbyeTimer: NodeJS.Timeout | undefined;
    const goodbye = () => {
      if (openedAt === undefined) return end(undefined);
      void heartbeats?.stop();
      const reason = signal.reason instanceof Error ? signal.reason.message : String(signal.reason);
      send({ $case: "goodbye", value: { reason } });
      outgoing.flush();
      call.end();
      goodbyeTimer = setTimeout(() => end(undefined), goodbyeLimitMs);
    };

    /** A fault of the agent's own must not end the process while work runs. */
    const guarded = (what: string, act: () => void) => {
      try {
        act();
      } catch (error) {
        log.error({ err: error, what }, "the supervisor failed on a message of the session");
      }
    };

    const beat = async () => {
      const health = await withinLimit(parts.health()).catch((error: unknown) => {
        log.warn({ err: error }, "the health of the host could not be sampled");
        return undefined;
      });
      if (isOver || signal.aborted) return undefined;
      sequence += 1n;
      sentAt.set(sequence, performance.now());
      if (sentAt.size > maxUnacknowledged) sentAt.delete(sequence - BigInt(maxUnacknowledged));
      send({ $case: "heartbeat", value: { sequence, attempts: supervisor.held(), health } }, "heartbeat");
      // Spread, so that a fleet that started together does not beat together.
      return heartbeatMs * (0.9 + Math.random() * 0.2);
    };

    const take = (message: NonNullable<SessionResponse["message"]>) => {
      if (message.$case === "helloAck") {
        if (openedAt !== undefined) return;
        clearTimeout(helloTimer);
        openedAt = performance.now();
        heartbeatMs = heartbeatPeriodMs(message.value.heartbeatMs);
        if (message.value.protocol >= 2) outgoing.allowBatches();
        guarded("onHelloAck", () => supervisor.onHelloAck(message.value, helloSentAt));
        const { hostId, epoch, protocol } = message.value;
        log.info({ hostId, epoch: String(epoch), protocol: Math.max(1, protocol) }, "session opened");
        parts.onOpen(send, message.value);
        heartbeats = rhythm({
          name: "heartbeat",
          periodMs: heartbeatMs,
          turn: beat,
          onError: (error) => log.error({ err: error }, "a heartbeat failed"),
          errorPauseMs: heartbeatMs,
        });
        void heartbeats.start();
        return;
      }
      // Nothing is done before the answer to Hello has said what is still ours.
      if (openedAt === undefined) return;
      switch (message.$case) {
        case "offer":
          return guarded("onOffer", () => supervisor.onOffer(message.value));
        case "start":
          return guarded("onStart", () => supervisor.onStart(message.value));
        case "stop":
          return guarded("onStop", () => supervisor.onStop(message.value));
        case "move":
          return guarded("onMove", () => parts.onMove(message.value));
        case "batch":
          // A batch inside a batch is ignored.
          for (const inner of message.value.messages)
            if (inner.message && inner.message.$case !== "batch" && !isOver) take(inner.message);
          return;
        case "heartbeatAck": {
          const at = sentAt.get(message.value.sequence);
          if (message.value.nextHeartbeatMs > 0) heartbeatMs = heartbeatPeriodMs(message.value.nextHeartbeatMs);
          if (at === undefined) return;
          for (const older of sentAt.keys()) if (older <= message.value.sequence) sentAt.delete(older);
          return guarded("onHeartbeatAck", () => supervisor.onHeartbeatAck(at, message.value.stops));
        }
      }
    };

    const helloTimer = setTimeout(
      () => end(new RenderplaneError("unavailable", "the control plane did not answer in time")),
      parts.helloLimitMs,
    );
    // Headers come as soon as the server has the stream: what is held, and since when, is said then and not while connecting.
    call.on("metadata", () => {
      if (isOver) return;
      try {
        const value = {
          instanceId: parts.instanceId,
          agentVersion: parts.agentVersion,
          protocolMin: oldestProtocol,
          protocolMax: protocolVersion,
          inventory: parts.inventory(),
          attempts: supervisor.held(),
        };
        helloSentAt = performance.now();
        send({ $case: "hello", value });
      } catch (error) {
        end(
          new RenderplaneError("internal", `the agent could not say what it holds: ${String(error)}`, { cause: error }),
        );
      }
    });
    call.on("data", ({ message }: SessionResponse) => {
      // After a goodbye this stream's words are of an older epoch.
      if (message && !isOver && !signal.aborted) take(message);
    });
    call.on("error", (error: ServiceError) => end(signal.aborted ? undefined : fromGrpc(error)));
    call.on("end", () => {
      // With an error status the error event follows; without one the server ended the stream on purpose.
      setImmediate(() => end(signal.aborted ? undefined : endedByServer()));
    });
    if (signal.aborted) goodbye();
    else signal.addEventListener("abort", goodbye);
  });

const endedByServer = (): RenderplaneError =>
  new RenderplaneError("unavailable", "the control plane ended the session");

const withinLimit = async (sample: Promise<Health>): Promise<Health | undefined> => {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), healthLimitMs);
  });
  try {
    return await Promise.race([sample, late]);
  } finally {
    clearTimeout(timer);
  }
};
