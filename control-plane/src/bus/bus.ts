// Wake-ups between parts and replicas. A bell has a topic and no content; losing every bell costs latency, never correctness.
// `publish` carries the live messages that requirements 002 names (`pipeline:progress` and so on): also best effort.
import type { Lifetime } from "@renderplane/proto/kernel/process/lifecycle.ts";

/**
 * ready: a stage may be placed · events: an event waits for the relay · lead: a loop has no leader ·
 * host:<id>: something waits for that host.
 */
export type Topic = "ready" | "events" | "lead" | `host:${string}`;

export type Bus = Lifetime & {
  /** Never throws, never waits. */
  ring(topic: Topic): void;
  /** Calls back at every bell of the topic, and for every topic after a reconnect. Returns how to stop listening. */
  on(topic: Topic, listener: () => void): () => void;
  /** Sends JSON to a channel such as `pipeline:progress`. Never throws, never waits; dropped when nobody can take it. */
  publish(channel: string, message: unknown): void;
  subscribe(channel: string, listener: (message: unknown) => void): () => void;
};
