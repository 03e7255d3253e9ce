// The edge for agents: two listeners, one that only enrols (TLS, no client certificate) and one for enrolled hosts (mutual TLS).
// Owns the replica's sessions and the rhythms over them. Decides nothing: every act is an operation, every status a look-up.
// Stops in the order that loses nothing: no new streams, hosts asked to go to another replica while their heartbeats are still
// answered, the rest told to come back, their ends stored, then the sockets.
import { Server, ServerCredentials } from "@grpc/grpc-js";
import { EnrolServiceService } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import type { Timings } from "@renderplane/proto/kernel/limits.ts";
import type { Lifetime } from "@renderplane/proto/kernel/process/lifecycle.ts";
import type { Logger } from "@renderplane/proto/kernel/process/logger.ts";
import type { Bus } from "../bus/bus.ts";
import type { Authority } from "../identity/authority.ts";
import { createGate, createHostGate, enrolmentsPerSecond, hellosPerSecond, maxHelloWaitMs } from "./admission.ts";
import { agentCalls } from "./complete.ts";
import { createDelivery } from "./deliver.ts";
import { enrol } from "./enrol.ts";
import { createDeparture } from "./leave.ts";
import { agentService, bind, closeServer, listenerOptions } from "./listeners.ts";
import { createLiveSessions, type Delivery, type LiveSession } from "./live-session.ts";
import type { GrpcOperations } from "./operations.ts";
import { type OutboundLimits, outboundLimits } from "./outbound.ts";
import { createPressure } from "./pressure.ts";
import { createProgressGate } from "./progress-gate.ts";
import { createRenewal } from "./renew.ts";
import { type SessionCall, type SessionHall, serveSession } from "./session.ts";
import type { LiveProgress } from "./take-message.ts";
import { createWatch, superseded } from "./watch.ts";

export type GrpcEdgeOptions = {
  readonly operations: GrpcOperations;
  readonly bus: Pick<Bus, "on">;
  readonly authority: Authority;
  readonly timings: Timings;
  readonly log: Logger;
  /** host:port; port 0 chooses one. */
  readonly agentListen: string;
  readonly enrolListen: string;
  /** Names and addresses by which agents reach this server, besides the loopback. */
  readonly serverNames: readonly string[];
  /** What enrolment answers; without it, the address that the agent listener is bound to. */
  readonly sessionAddress?: string;
  /** host:port of the replicas that are up, this one first; without it agents keep to the address they know. */
  readonly addresses?: () => readonly string[];
  /** At most two a second for an attempt. */
  readonly onProgress: (progress: LiveProgress) => void;
  /** What may wait for one host before its stream is closed. */
  readonly outbound?: Partial<OutboundLimits>;
};

export type GrpcEdge = Lifetime & {
  agentAddress(): string;
  enrolAddress(): string;
  /** Asks every host to go to another replica, each after a random part of this. Answers how many were asked. */
  moveAll(withinMs: number): number;
  /** Every host says hello again, here or at another replica: the store has closed its session. */
  recall(withinMs: number): Promise<void>;
  /** Asks a random part (0..1) of the hosts to go. */
  shed(fraction: number): number;
  levels(): EdgeLevels;
};

/** How this edge stands, for metrics. */
export type EdgeLevels = {
  readonly sessions: number;
  /** Messages and bytes that wait for hosts, all of them together. */
  readonly waitingMessages: number;
  readonly waitingBytes: number;
  /** How late the event loop was, 99 of 100 samples of the last five seconds. */
  readonly loopDelayP99Ms: number;
  readonly isOverloaded: boolean;
  /** Hellos that were sent away at the gate, since the start. */
  readonly hellosSentAway: number;
};

const progressIntervalMs = 500;
/** Hosts leave for another replica within two heartbeats, and never later than this: they must not all arrive there at once. */
const maxMoveMs = 10_000;
/** For the last of them to say goodbye. */
const moveMarginMs = 1000;
/** Ends of sessions are stored within this, or left to the next session of each host. */
const leaveLimitMs = 3000;

export const createGrpcEdge = (options: GrpcEdgeOptions): GrpcEdge => {
  const { operations, authority, timings, log } = options;
  const limits = { ...outboundLimits, ...options.outbound };
  const sessions = createLiveSessions();
  const deliveries = new Map<LiveSession, Delivery>();
  const quiet = new Map<LiveSession, () => void>();
  const leaving = new Set<Promise<void>>();
  const gate = createProgressGate<LiveProgress>({ intervalMs: progressIntervalMs, publish: options.onProgress });
  const pressure = createPressure({ log });
  const watch = createWatch({ sessions, deliveries, operations, timings, log });
  const { judge, isTrusted } = watch;
  const renewal = createRenewal({
    sessions,
    operations,
    timings,
    log,
    pressure,
    blockedLimitMs: limits.blockedMs,
    judge,
    flushProgress: gate.flush,
  });
  const departure = createDeparture(sessions);
  const hellos = createGate(hellosPerSecond, "sessions", { maxWaitMs: maxHelloWaitMs });
  const admitHost = createHostGate();
  const rhythms = [pressure.rhythm, watch.rhythm, renewal];
  const bound = { agent: "", enrol: "" };
  let servers: Server[] = [];
  let isStopping = false;
  let stopped: Promise<void> | undefined;

  /** When it fails the row names this replica until the host's next session; the silence is seen by its last_seen_at. */
  const tellEnd = ({ hostId, epoch }: LiveSession, saidGoodbye: boolean) => {
    const told = operations
      .closeSession({ hostId, epoch, saidGoodbye })
      .catch((error: unknown) => log.warn({ err: error, hostId }, "the end of a session was not stored"))
      .finally(() => leaving.delete(told));
    leaving.add(told);
  };
  const leave = (session: LiveSession, saidGoodbye: boolean) => {
    deliveries.delete(session);
    quiet.get(session)?.();
    quiet.delete(session);
    if (sessions.remove(session)) tellEnd(session, saidGoodbye);
  };
  const deliveryParts = { operations, leaseMs: timings.leaseMs, log, isPaused: pressure.isHigh, judge };
  const hall: SessionHall = {
    operations,
    timings,
    log,
    limits,
    addresses: options.addresses ?? (() => []),
    admit: async (hostId) => {
      if (isStopping) throw stopping();
      admitHost(hostId);
      await hellos.admit();
    },
    enter: (session) => {
      if (isStopping) {
        tellEnd(session, false);
        throw stopping();
      }
      // Two Hellos of one host may be answered in either order; the newer epoch wins.
      if ((sessions.byHost.get(session.hostId)?.epoch ?? 0n) > session.epoch) throw superseded();
      const delivery = createDelivery(session, deliveryParts);
      deliveries.set(session, delivery);
      quiet.set(session, options.bus.on(`host:${session.hostId}`, delivery.ring));
      return { delivery, older: sessions.add(session) };
    },
    leave,
    progressed: (progress) => gate.offer(progress.attemptId, progress),
  };

  const listen = async (agents: Server, enrolment: Server) => {
    const { key, certificate } = await authority.serverCredentials(options.serverNames);
    const pair = [{ private_key: Buffer.from(key), cert_chain: Buffer.from(certificate) }];
    const roots = Buffer.from(authority.authorities);
    agents.addService(agentService, {
      ...agentCalls({ operations, sessions, isTrusted, log }),
      session: (call: SessionCall) => serveSession(call, hall),
    });
    const { admit } = createGate(enrolmentsPerSecond, "enrolments");
    const sessionAddress = () => options.sessionAddress ?? bound.agent;
    enrolment.addService(EnrolServiceService, { enrol: enrol({ operations, log, admit, sessionAddress }) });
    const mutual = ServerCredentials.createSsl(roots, pair, true);
    const open = ServerCredentials.createSsl(roots, pair, false);
    bound.agent = await bind(agents, options.agentListen, mutual, "RENDERPLANE_GRPC_LISTEN");
    bound.enrol = await bind(enrolment, options.enrolListen, open, "RENDERPLANE_ENROL_LISTEN");
  };

  const stop = async () => {
    if (servers.length === 0) return;
    isStopping = true;
    const moveMs = Math.min(maxMoveMs, timings.heartbeatMs * 2);
    // Alone there is nowhere to go: hosts come back to this address when they find their stream ended.
    if (hall.addresses().length > 1) departure.moveAll(moveMs);
    const left = await departure.untilLeft(moveMs + moveMarginMs);
    if (left > 0) log.warn({ left }, "hosts that were asked to leave are still here; their streams end now");
    await Promise.all(rhythms.map((part) => part.stop()));
    for (const session of [...sessions.byHost.values()]) session.close(stopping());
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, leaveLimitMs);
    });
    await Promise.race([Promise.all(leaving), late]);
    clearTimeout(timer);
    await Promise.all(servers.map(closeServer));
    servers = [];
  };

  return {
    name: "grpc-edge",
    agentAddress: () => bound.agent,
    enrolAddress: () => bound.enrol,
    start: async () => {
      if (servers.length > 0) return;
      servers = [new Server(listenerOptions), new Server(listenerOptions)];
      try {
        await listen(servers[0] as Server, servers[1] as Server);
      } catch (error) {
        await Promise.all(servers.map(closeServer));
        throw error;
      }
      for (const part of rhythms) await part.start();
    },
    moveAll: departure.moveAll,
    recall: departure.recall,
    shed: departure.shed,
    levels: () => {
      let [waitingMessages, waitingBytes] = [0, 0];
      for (const session of sessions.byHost.values()) {
        const { messages, bytes } = session.waiting();
        waitingMessages += messages;
        waitingBytes += bytes;
      }
      return {
        sessions: sessions.byHost.size,
        waitingMessages,
        waitingBytes,
        loopDelayP99Ms: pressure.loopDelayP99Ms(),
        isOverloaded: pressure.isHigh(),
        hellosSentAway: hellos.sentAway(),
      };
    },
    stop: () => {
      stopped ??= stop();
      return stopped;
    },
  };
};

const stopping = (): RenderplaneError =>
  new RenderplaneError("unavailable", "the control plane is stopping; the session may be resumed");
