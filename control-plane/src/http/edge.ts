// Gives the HTTP interface its socket and its lifetime: start listens, stop lets running answers finish and ends the streams.
// Routes are app.ts's. Invariant: after stop nothing of it holds a socket, a timer or a seat at the event feed.
import type { Server } from "node:http";
import type { AddressInfo } from "node:net";
import { createAdaptorServer, type WebSocketServerLike } from "@hono/node-server";
import { ConfigError } from "@renderplane/proto/kernel/process/environment.ts";
import type { Lifetime } from "@renderplane/proto/kernel/process/lifecycle.ts";
import { WebSocketServer } from "ws";
import type { Metrics } from "../metrics/registry.ts";
import { createApp } from "./app.ts";
import { createEventFeed } from "./event-feed.ts";
import { allowedHosts } from "./guards.ts";
import { createLiveStreams } from "./live-streams.ts";
import type { HttpContext, HttpOperations } from "./operations.ts";
import { problemResponse } from "./problem.ts";
import { maxIncomingBytes } from "./progress-socket.ts";
import type { Readiness } from "./system.ts";

/** A request head that is not complete by then is not coming. Bodies have no such limit: media may be gigabytes. */
const headersTimeoutMs = 30_000;
/** A socket on which nothing moves for so long is closed; streams have a heartbeat far below it. */
const idleSocketMs = 120_000;
/** Longer than the usual idle time of proxies, so that the proxy closes first and no request meets a closing socket. */
const keepAliveMs = 65_000;
/** How long stop waits for answers that are on their way. */
const finishMs = 3_000;

export type HttpEdgeOptions = {
  /** "127.0.0.1:8000"; port 0 takes a free one. */
  readonly listen: string;
  /** The address that people use, when it is another than the listener's. */
  readonly publicUrl?: string | undefined;
  readonly version: string;
  readonly operations: HttpOperations;
  readonly metrics: Metrics;
  readonly isReady: () => Promise<Readiness>;
  /** Where new agents enrol, for the command that is shown with a join token. */
  readonly enrolAddress?: () => string;
  /** Shortened by tests. */
  readonly heartbeatMs?: number;
};

export type HttpEdge = Lifetime & { url(): string };

export const createHttpEdge = (ctx: HttpContext, options: HttpEdgeOptions): HttpEdge => {
  const { host, port } = parseListen(options.listen);
  const feed = createEventFeed(ctx.bus, options.operations, ctx.log);
  const streams = createLiveStreams(options.metrics.setOpenStreams, options.heartbeatMs);
  const app = createApp(ctx, {
    version: options.version,
    publicUrl: options.publicUrl,
    hosts: allowedHosts(host, options.publicUrl),
    operations: options.operations,
    metrics: options.metrics,
    isReady: options.isReady,
    enrolAddress: options.enrolAddress ?? (() => `${host}:7444`),
    feed,
    streams,
  });
  let server: Server | undefined;
  let sockets: WebSocketServer | undefined;
  let stopping: Promise<void> | undefined;

  const start = async () => {
    if (server) return;
    sockets = new WebSocketServer({ noServer: true, maxPayload: maxIncomingBytes });
    const created = createAdaptorServer({
      fetch: async (request, env) => {
        try {
          return await app.fetch(request, env);
        } catch (error) {
          // Only what is no Error at all comes here; the application answers everything else itself.
          ctx.log.error({ err: error }, "request failed");
          return problemResponse(error, { path: new URL(request.url).pathname, traceId: "" });
        }
      },
      // The adapter describes `ws` by hand and slightly differently from the types of `ws`; this pair is what it documents.
      websocket: { server: sockets as unknown as WebSocketServerLike },
      // requestTimeout counts the body too and would cut long uploads off.
      serverOptions: { headersTimeout: headersTimeoutMs, requestTimeout: 0, keepAliveTimeout: keepAliveMs },
    }) as Server;
    created.setTimeout(idleSocketMs);
    await listening(created, host, port, options.listen);
    server = created;
    await feed.start();
    await streams.start();
    ctx.log.info({ url: urlOf(created) }, "http edge listens");
  };

  const stop = async () => {
    const running = server;
    if (!running) return;
    const closed = new Promise<void>((resolve) => running.close(() => resolve()));
    await streams.stop();
    await feed.stop();
    running.closeIdleConnections();
    const late = setTimeout(() => {
      for (const socket of sockets?.clients ?? []) socket.terminate();
      running.closeAllConnections();
    }, finishMs);
    await closed;
    clearTimeout(late);
    for (const socket of sockets?.clients ?? []) socket.terminate();
  };

  return {
    name: "http edge",
    start,
    stop: () => {
      stopping ??= stop();
      return stopping;
    },
    url: () => {
      if (!server) throw new Error("the http edge has not been started");
      return urlOf(server);
    },
  };
};

const listening = (server: Server, host: string, port: number, listen: string): Promise<void> =>
  new Promise((resolve, reject) => {
    server.once("error", (error: NodeJS.ErrnoException) => reject(listenError(error, listen)));
    server.listen(port, host, () => {
      server.removeAllListeners("error");
      resolve();
    });
  });

const listenError = (error: NodeJS.ErrnoException, listen: string): Error => {
  const change = "choose another address with RENDERPLANE_LISTEN (or --port of quickstart)";
  switch (error.code) {
    case "EADDRINUSE":
      return new ConfigError(`RENDERPLANE_LISTEN: ${listen} is in use by another program; stop it, or ${change}.`);
    case "EACCES":
      return new ConfigError(
        `RENDERPLANE_LISTEN: ${listen} may not be opened by this user; ${change}, with a port from 1024 on.`,
      );
    case "EADDRNOTAVAIL":
    case "ENOTFOUND":
      return new ConfigError(`RENDERPLANE_LISTEN: ${listen} is not an address of this machine; ${change}.`);
    default:
      return error;
  }
};

/** "host:port", "[v6]:port" or ":port" (every address). Throws ConfigError. */
export const parseListen = (listen: string): { readonly host: string; readonly port: number } => {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\]]*)):(\d{1,5})$/.exec(listen);
  const port = Number(match?.[3]);
  if (!match || port > 65_535)
    throw new ConfigError(`RENDERPLANE_LISTEN must be host:port like 127.0.0.1:8000, got ${JSON.stringify(listen)}.`);
  return { host: match[1] ?? (match[2] || "0.0.0.0"), port };
};

const urlOf = (server: Server): string => {
  const { address, family, port } = server.address() as AddressInfo;
  return `http://${family === "IPv6" ? `[${address}]` : address}:${port}`;
};
