// The bus of one process: bells and live messages go straight to the listeners. For the embedded default and for tests.
// Messages pass through JSON as on Redis, so a listener never shares an object with the sender and both buses carry the same.
import { maxControlMessageBytes } from "@renderplane/proto/kernel/limits.ts";
import { type Logger, silentLogger } from "@renderplane/proto/kernel/process/logger.ts";
import type { Bus } from "./bus.ts";
import { createBells, createListeners, encodeMessage } from "./listeners.ts";

export const createMemoryBus = (options: { readonly log?: Logger } = {}): Bus => {
  const log = options.log ?? silentLogger();
  const bells = createBells(log);
  const channels = createListeners<unknown>(log);
  let isOpen = false;
  return {
    name: "bus (memory)",
    start: async () => {
      isOpen = true;
    },
    stop: async () => {
      isOpen = false;
    },
    ring: (topic) => {
      if (isOpen) bells.ring(topic);
    },
    on: bells.on,
    publish: (channel, message) => {
      const text = encodeMessage(channel, message, maxControlMessageBytes, log);
      if (isOpen && text !== undefined) channels.deliver(channel, JSON.parse(text));
    },
    subscribe: (channel, listener) => channels.add(channel, listener),
  };
};
