// The sockets of the edge: how a listener is set up, bound and closed, and the shape of the session's messages on it. What is served
// there is agent-server.ts.
import type { Server, ServerCredentials, ServerOptions } from "@grpc/grpc-js";
import { AgentServiceService, SessionRequest } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import { maxReceiveMessageBytes } from "@renderplane/proto/kernel/limits.ts";
import { ConfigError } from "@renderplane/proto/kernel/process/environment.ts";
import type { Arrival } from "./session.ts";

// Keepalive is off by default, and without it a peer behind a dead network is never noticed. No maximum age of connections: it
// would cut open sessions.
export const listenerOptions: ServerOptions = {
  "grpc.keepalive_time_ms": 15_000,
  "grpc.keepalive_timeout_ms": 10_000,
  "grpc.max_receive_message_length": maxReceiveMessageBytes,
  "grpc.max_concurrent_streams": 64,
};

/** Sizes are read where the bytes are, and messages leave as they were encoded for the queue. */
export const agentService = {
  ...AgentServiceService,
  session: {
    ...AgentServiceService.session,
    requestDeserialize: (bytes: Buffer): Arrival => ({
      message: SessionRequest.decode(bytes).message,
      size: bytes.length,
    }),
    responseSerialize: (bytes: Buffer): Buffer => bytes,
  },
};

/** Answers the address that was bound; throws ConfigError that names the setting. */
export const bind = async (
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

/** Statuses that were just written get a moment to leave; then the sockets are cut, because open streams never end by waiting. */
const flushMs = 200;
export const closeServer = (server: Server): Promise<void> =>
  new Promise((resolve) => {
    const cut = setTimeout(() => server.forceShutdown(), flushMs);
    server.tryShutdown(() => {
      clearTimeout(cut);
      resolve();
    });
  });
