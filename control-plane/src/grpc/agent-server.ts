// The edge for agents: two listeners, one that only enrols (TLS, no client certificate) and one for enrolled hosts (mutual TLS).
// Owns the replica's sessions and the two rhythms over them. Decides nothing: every act is an operation, every status a look-up.
// Stops in the order that loses nothing: no new streams, sessions told to come back, their ends stored, then the sockets.
import { Server, ServerCredentials, type ServerOptions } from "@grpc/grpc-js";
import { AgentServiceService, EnrolServiceService } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { maxReceiveMessageBytes, type Timings } from "@renderplane/proto/kernel/limits.ts";
import { ConfigError } from "@renderplane/proto/kernel/process/environment.ts";
import type { Lifetime } from "@renderplane/proto/kernel/process/lifecycle.ts";
import type { Logger } from "@renderplane/proto/kernel/process/logger.ts";
import type { Bus } from "../bus/bus.ts";
import type { Authority } from "../identity/authority.ts";
import { createGate, enrolmentsPerSecond, hellosPerSecond } from "./admission.ts";
import { agentCalls } from "./complete.ts";
import { createDelivery, createPoll } from "./deliver.ts";
import { enrol } from "./enrol.ts";
import { createLiveSessions, type Delivery, type LiveSession } from "./live-session.ts";
import type { GrpcOperations } from "./operations.ts";
import { createProgressGate } from "./progress-gate.ts";
import { createRenewal, superseded } from "./renew.ts";
import { type LiveProgress, type SessionCall, serveSession } from "./session.ts";

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
  /** At most two a second for an attempt. */
  readonly onProgress: (progress: LiveProgress) => void;
  /** Messages that wait for one host before its stream is closed; the limit of kernel/limits.ts without it. */
  readonly maxQueued?: number;
};

export type GrpcEdge = Lifetime & { agentAddress(): string; enrolAddress(): string };

// Keepalive is off by default, and without it a peer behind a dead network is never noticed. No maximum age of connections: it
// would cut open sessions.
const listenerOptions: ServerOptions = {
  "grpc.keepalive_time_ms": 15_000,
  "grpc.keepalive_timeout_ms": 10_000,
  "grpc.max_receive_message_length": maxReceiveMessageBytes,
  "grpc.max_concurrent_streams": 64,
};
const progressIntervalMs = 500;
/** Ends of sessions are stored within this, or left to the next session of each host. */
const leaveLimitMs = 3000;

export const createGrpcEdge = (options: GrpcEdgeOptions): GrpcEdge => {
  const { operations, authority, timings, log } = options;
  const sessions = createLiveSessions();
  const deliveries = new Map<LiveSession, Delivery>();
  const quiet = new Map<LiveSession, () => void>();
  const leaving = new Set<Promise<void>>();
  const gate = createProgressGate<LiveProgress>({ intervalMs: progressIntervalMs, publish: options.onProgress });
  const renewal = createRenewal({ sessions, operations, timings, log, flushProgress: gate.flush });
  const poll = createPoll(sessions, deliveries, log);
  const bound = { agent: "", enrol: "" };
  let servers: Server[] = [];
  let isStopping = false;

  /** When it fails the row names this replica until the host's next session; the silence is seen by its last_seen_at. */
  const tellEnd = ({ hostId, epoch }: LiveSession) => {
    const told = operations
      .closeSession({ hostId, epoch })
      .catch((error: unknown) => log.warn({ err: error, hostId }, "the end of a session was not stored"))
      .finally(() => leaving.delete(told));
    leaving.add(told);
  };
  const leave = (session: LiveSession) => {
    deliveries.delete(session);
    quiet.get(session)?.();
    quiet.delete(session);
    if (sessions.remove(session)) tellEnd(session);
  };
  const hall = {
    operations,
    timings,
    log,
    ...(options.maxQueued === undefined ? {} : { maxQueued: options.maxQueued }),
    admit: createGate(hellosPerSecond, "sessions"),
    enter: (session: LiveSession) => {
      if (isStopping) {
        tellEnd(session);
        throw stopping();
      }
      // Two Hellos of one host may be answered in either order; the newer epoch wins.
      if ((sessions.byHost.get(session.hostId)?.epoch ?? 0n) > session.epoch) throw superseded();
      const delivery = createDelivery(session, { operations, leaseMs: timings.leaseMs, log });
      deliveries.set(session, delivery);
      quiet.set(session, options.bus.on(`host:${session.hostId}`, delivery.ring));
      return { delivery, older: sessions.add(session) };
    },
    leave,
    progressed: (progress: LiveProgress) => gate.offer(progress.attemptId, progress),
  };

  const listen = async (agents: Server, enrolment: Server) => {
    const { key, certificate } = await authority.serverCredentials(options.serverNames);
    const pair = [{ private_key: Buffer.from(key), cert_chain: Buffer.from(certificate) }];
    const roots = Buffer.from(authority.authorities);
    agents.addService(AgentServiceService, {
      ...agentCalls({ operations, sessions, log }),
      session: (call: SessionCall) => serveSession(call, hall),
    });
    const admit = createGate(enrolmentsPerSecond, "enrolments");
    const sessionAddress = () => options.sessionAddress ?? bound.agent;
    enrolment.addService(EnrolServiceService, { enrol: enrol({ operations, log, admit, sessionAddress }) });
    const mutual = ServerCredentials.createSsl(roots, pair, true);
    const open = ServerCredentials.createSsl(roots, pair, false);
    bound.agent = await bind(agents, options.agentListen, mutual, "RENDERPLANE_GRPC_LISTEN");
    bound.enrol = await bind(enrolment, options.enrolListen, open, "RENDERPLANE_ENROL_LISTEN");
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
      await renewal.start();
      await poll.start();
    },
    stop: async () => {
      isStopping = true;
      await Promise.all([poll.stop(), renewal.stop()]);
      for (const session of [...sessions.byHost.values()]) session.close(stopping());
      let timer: NodeJS.Timeout | undefined;
      const late = new Promise<void>((resolve) => {
        timer = setTimeout(resolve, leaveLimitMs);
      });
      await Promise.race([Promise.all(leaving), late]);
      clearTimeout(timer);
      await Promise.all(servers.map(closeServer));
      servers = [];
    },
  };
};

const stopping = (): RenderplaneError =>
  new RenderplaneError("unavailable", "the control plane is stopping; the session may be resumed");

/** Statuses that were just written get a moment to leave; then the sockets are cut, because open streams never end by waiting. */
const flushMs = 200;
const closeServer = (server: Server): Promise<void> =>
  new Promise((resolve) => {
    const cut = setTimeout(() => server.forceShutdown(), flushMs);
    server.tryShutdown(() => {
      clearTimeout(cut);
      resolve();
    });
  });

const bind = async (
  server: Server,
  listen: string,
  credentials: ServerCredentials,
  setting: string,
): Promise<string> => {
  try {
    const port = await new Promise<number>((resolve, reject) => {
      server.bindAsync(listen, credentials, (error, bound) => (error ? reject(error) : resolve(bound)));
    });
    return `${listen.slice(0, listen.lastIndexOf(":"))}:${port}`;
  } catch (error) {
    const cause = error instanceof Error ? error.message : String(error);
    const why = cause.includes("EADDRINUSE") ? "the port is in use by another process" : cause;
    throw new ConfigError(
      `${setting}: cannot listen on ${listen}: ${why}. Free it or set ${setting} to another host:port`,
    );
  }
};
