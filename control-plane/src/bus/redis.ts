// The bus between replicas, over Redis pub/sub. Bells travel on one channel as "<sender> <topic>"; a replica's own bells ring
// inside it at once and are ignored when they come back, so one replica alone does not notice that Redis is gone.
// Live messages keep their plain channel and plain JSON: older clients subscribe to `pipeline:progress` themselves.
// Invariants: nothing here throws at or waits for the caller; after every (re)connect, once the bell channel is subscribed
// again, all topics ring, because what was rung meanwhile is lost.
import { randomBytes } from "node:crypto";
import { maxControlMessageBytes, maxQueuedMessages } from "@renderplane/proto/kernel/limits.ts";
import { type Logger, silentLogger } from "@renderplane/proto/kernel/process/logger.ts";
import { rhythm } from "@renderplane/proto/kernel/process/rhythm.ts";
import { Redis } from "ioredis";
import type { Bus } from "./bus.ts";
import { createBells, createListeners, encodeMessage } from "./listeners.ts";

export const bellChannel = "renderplane:bell";
/** A Redis that hangs (measured: ioredis would wait for ever without it) costs one command this long. */
const commandMs = 1_000;
/** Ceiling of the pause between two dials; the default of 5 s is longer than the consumers' own polls. */
const maxRedialMs = 1_000;
/** A subscriber only listens, so a connection that died silently shows only when it is asked. */
const probeMs = 5_000;
/** start() does not wait longer: without Redis everything works, only slower between replicas. */
const firstReadyMs = 2_000;

export const createRedisBus = (options: { readonly url: string; readonly log?: Logger }): Bus => {
  const log = options.log ?? silentLogger();
  const sender = randomBytes(6).toString("hex");
  const bells = createBells(log);
  const channels = createListeners<unknown>(log);
  const common = {
    lazyConnect: true,
    commandTimeout: commandMs,
    protocol: 3,
    retryStrategy: (times: number) => Math.min(50 * 2 ** Math.min(times, 10), maxRedialMs) + Math.random() * 50,
  } as const;
  const publisher = new Redis(options.url, { ...common, enableOfflineQueue: false, maxRetriesPerRequest: 0 });
  const subscriber = new Redis(options.url, { ...common, maxRetriesPerRequest: null, autoResubscribe: true });

  let isStarted = false;
  let isStopped = false;
  let isConnected = false;
  let mayHaveMissed = false;
  const joined = Promise.withResolvers<void>();
  const writable = Promise.withResolvers<void>();
  /** Publishes that Redis has not answered; above maxQueuedMessages new ones are dropped. */
  let unanswered = 0;
  /** After a command that was not answered nothing is sent for as long again: a Redis that hangs gathers no work to come back to. */
  let closedUntil = 0;

  const report = (connected: boolean, error?: unknown): void => {
    if (connected === isConnected || isStopped) return;
    isConnected = connected;
    if (connected) log.info("the bus reaches Redis");
    else log.warn({ err: error }, "the bus lost Redis; replicas wake each other only by polling");
  };

  const send = (channel: string, text: string, failed: () => void): void => {
    const isClosed = performance.now() < closedUntil;
    if (isStopped || isClosed || publisher.status !== "ready" || unanswered >= maxQueuedMessages) {
      failed();
      return;
    }
    unanswered += 1;
    publisher.publish(channel, text).then(
      () => {
        unanswered -= 1;
      },
      () => {
        unanswered -= 1;
        closedUntil = performance.now() + commandMs;
      },
    );
  };

  subscriber.on("message", (channel: string, text: string) => {
    if (channel === bellChannel) {
      const [from, topic] = text.split(" ", 2);
      if (from !== sender && topic) bells.ring(topic);
      return;
    }
    try {
      channels.deliver(channel, JSON.parse(text));
    } catch {
      log.warn({ channel }, "a message on the bus is no JSON and was passed over");
    }
  });
  // `ready` comes before the channels are subscribed again; only their answer says that no further bell is lost.
  subscriber.on("ready", () => {
    subscriber.subscribe(bellChannel, ...channels.names()).then(
      () => {
        report(true);
        joined.resolve();
        // Not at a first connection that start() waited for: nobody can have relied on bells before it.
        if (mayHaveMissed) bells.ringAll();
        mayHaveMissed = true;
      },
      (error) => subscriber.disconnect(!isStopped && error !== undefined),
    );
  });
  publisher.on("ready", () => writable.resolve());
  for (const connection of [publisher, subscriber]) {
    // Without a listener an error event ends the process; ioredis dials again by itself.
    connection.on("error", (error) => report(false, error));
    connection.on("close", () => report(false));
  }

  const probe = rhythm({
    name: "bus probe",
    periodMs: probeMs,
    turn: async () => {
      if (subscriber.status !== "ready") return;
      await subscriber.ping().catch((error: unknown) => {
        report(false, error);
        if (!isStopped) subscriber.disconnect(true);
      });
    },
    onError: (error) => log.error({ err: error }, "the bus probe failed"),
  });

  return {
    name: "bus (Redis)",
    start: async () => {
      if (isStarted) return;
      isStarted = true;
      for (const connection of [publisher, subscriber]) connection.connect().catch(() => {});
      let timer: NodeJS.Timeout | undefined;
      const late = new Promise((resolve) => {
        timer = setTimeout(resolve, firstReadyMs);
      });
      await Promise.race([Promise.all([joined.promise, writable.promise]), late]);
      clearTimeout(timer);
      mayHaveMissed = true;
      if (!isConnected) log.warn("Redis does not answer; the bus goes on dialling");
      await probe.start();
    },
    stop: async () => {
      if (isStopped) return;
      isStopped = true;
      await probe.stop();
      publisher.disconnect();
      subscriber.disconnect();
    },
    ring: (topic) => {
      bells.ring(topic);
      send(bellChannel, `${sender} ${topic}`, () => {});
    },
    on: bells.on,
    publish: (channel, message) => {
      const text = encodeMessage(channel, message, maxControlMessageBytes, log);
      if (text === undefined) return;
      // Without Redis the listeners of this replica still see what this replica does.
      send(channel, text, () => channels.deliver(channel, JSON.parse(text)));
    },
    subscribe: (channel, listener) => {
      if (!channels.has(channel)) subscriber.subscribe(channel).catch(() => {});
      const remove = channels.add(channel, listener);
      return () => {
        remove();
        if (!channels.has(channel) && !isStopped) subscriber.unsubscribe(channel).catch(() => {});
      };
    },
  };
};
