// Who listens to which name inside this process. Calls back in a later turn of the event loop, so ringing never runs the
// listener's code, and bells of one name that ring in the same turn are one call.
// Invariant: a listener that throws is reported and stops neither the others nor the one who rang.
import type { Logger } from "@renderplane/proto/kernel/process/logger.ts";

export type Listeners<M> = {
  add(name: string, listener: (message: M) => void): () => void;
  has(name: string): boolean;
  names(): string[];
  /** Calls every listener of the name with this message. */
  deliver(name: string, message: M): void;
};

export const createListeners = <M>(log: Logger): Listeners<M> => {
  const byName = new Map<string, Set<{ readonly call: (message: M) => void }>>();
  return {
    add: (name, call) => {
      // An object of its own: the same function may listen twice and stop once.
      const entry = { call };
      const entries = byName.get(name) ?? new Set();
      byName.set(name, entries.add(entry));
      return () => {
        entries.delete(entry);
        if (entries.size === 0 && byName.get(name) === entries) byName.delete(name);
      };
    },
    has: (name) => byName.has(name),
    names: () => [...byName.keys()],
    deliver: (name, message) => {
      if (!byName.has(name)) return;
      setImmediate(() => {
        for (const entry of [...(byName.get(name) ?? [])]) {
          try {
            entry.call(message);
          } catch (error) {
            log.error({ err: error, name }, "a bus listener failed");
          }
        }
      });
    },
  };
};

/** Bells of one topic within one turn are one call: a batch that rings `ready` a hundred times wakes the placer once. */
export const createBells = (log: Logger) => {
  const listeners = createListeners<void>(log);
  const pending = new Set<string>();
  const ring = (topic: string): void => {
    if (pending.has(topic)) return;
    pending.add(topic);
    setImmediate(() => {
      pending.delete(topic);
      listeners.deliver(topic, undefined);
    });
  };
  return {
    ring,
    ringAll: () => {
      for (const topic of listeners.names()) ring(topic);
    },
    on: (topic: string, listener: () => void) => listeners.add(topic, () => listener()),
  };
};

/** JSON text of a live message, or undefined (reported) when it cannot be sent. */
export const encodeMessage = (channel: string, message: unknown, maxBytes: number, log: Logger): string | undefined => {
  try {
    const text = JSON.stringify(message);
    if (text !== undefined && Buffer.byteLength(text) <= maxBytes) return text;
    log.warn({ channel, maxBytes }, "a live message is empty or too large and was dropped");
  } catch (error) {
    log.error({ err: error, channel }, "a live message is no JSON and was dropped");
  }
  return undefined;
};
