// One connection to one replica and the session on it, as the link handles it: an address, a channel, a stream that opens or does not,
// and what happens to it next. Every line has a channel of its own, so that the pauses between tries are ours alone.
import type { AgentServiceClient, Health, HelloAck, Move } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import type { Inventory } from "@renderplane/proto/gen/renderplane/v1/types.ts";
import type { Logger } from "@renderplane/proto/kernel/process/logger.ts";
import type { Supervisor } from "../work/contract.ts";
import { openClient } from "./client.ts";
import type { Identity } from "./identity.ts";
import type { Outgoing } from "./outgoing.ts";
import { runSession, type SessionEnd } from "./session.ts";

export type Send = (message: Outgoing, key?: string) => void;
export type LineEvent = { readonly end: SessionEnd } | { readonly move: Move };

export type Line = {
  readonly address: string;
  readonly identity: Identity;
  readonly client: AgentServiceClient;
  /** False when it ended before Hello was answered. */
  readonly opened: Promise<boolean>;
  readonly ended: Promise<SessionEnd>;
  /** Aborted when it ended. */
  readonly over: AbortSignal;
  /** Its end, or the newest wish to move that was not answered by a call before. */
  next(): Promise<LineEvent>;
  /** Says goodbye with this reason. The channel stays for calls. */
  close(reason: string): void;
};

export const openLine = (parts: {
  readonly address: string;
  readonly identity: Identity;
  readonly supervisor: Supervisor;
  readonly instanceId: string;
  readonly agentVersion: string;
  readonly inventory: () => Inventory;
  readonly health: () => Promise<Health>;
  readonly helloLimitMs: number;
  readonly stopped: AbortSignal;
  readonly log: Logger;
  readonly onOpen: (send: Send, ack: HelloAck) => void;
  readonly onEnd: (send: Send | undefined) => void;
}): Line => {
  const client = openClient(parts.address, parts.identity);
  const closing = new AbortController();
  const over = new AbortController();
  let through: Send | undefined;
  let wish: Move | undefined;
  let wake = () => {};
  const opening = Promise.withResolvers<boolean>();
  const ended = runSession({
    ...parts,
    client,
    signal: AbortSignal.any([parts.stopped, closing.signal]),
    onOpen: (send, ack) => {
      through = send;
      // A microtask later: whoever opened this line knows it by then.
      queueMicrotask(() => opening.resolve(true));
      parts.onOpen(send, ack);
    },
    onMove: (move) => {
      wish = move;
      wake();
    },
  }).then((end) => {
    opening.resolve(false);
    over.abort();
    parts.onEnd(through);
    return end;
  });
  return {
    address: parts.address,
    identity: parts.identity,
    client,
    opened: opening.promise,
    ended,
    over: over.signal,
    next: async () => {
      const wished = new Promise<void>((resolve) => {
        wake = resolve;
      });
      const end = wish ? undefined : await Promise.race([ended, wished]);
      if (end) return { end };
      const move = wish;
      wish = undefined;
      return move ? { move } : { end: await ended };
    },
    close: (reason) => closing.abort(new Error(reason)),
  };
};
