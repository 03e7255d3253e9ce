// One open stream of one host, as the rest of the edge sees it: who it is, what it reported last, what it is owed, and how to
// send to it or end it. The stream's own protocol is session.ts; the two rhythms over all sessions are deliver.ts and renew.ts.
import type { OfferAnswer, Progress, SessionResponse } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import type { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import type { JsonObject } from "../domain/records.ts";
import type { HeldRecord, StopRecord } from "./operations.ts";

export type Outgoing = NonNullable<SessionResponse["message"]>;

export type LiveSession = {
  readonly hostId: string;
  readonly epoch: bigint;
  /** The newest heartbeat that has not been acknowledged. */
  heartbeat: { readonly sequence: bigint; readonly held: readonly HeldRecord[] } | undefined;
  health: JsonObject;
  /** Newest progress by attempt; pruned to what the host holds at every heartbeat. */
  readonly progress: Map<string, Progress>;
  /** Attempts that run here by our word, with their fence: only their progress is passed on. */
  readonly running: Map<string, bigint>;
  /** Stops that were sent and are repeated until the attempt is gone. */
  readonly stops: Map<string, StopRecord>;
  /** Ended through Complete while the newest heartbeat may still name them: not a lost lease. */
  readonly ended: Set<string>;
  /** Urgent messages overtake others that wait; a keyed one replaces its older self. */
  send(message: Outgoing, options?: { readonly urgent?: boolean; readonly key?: string }): void;
  /** How long the host has not taken what waits for it. */
  blockedMs(): number;
  /** Ends the stream with this status and tells the store. Idempotent. */
  close(error: RenderplaneError): void;
};

/** What a stream does with the messages that need an operation; bound to one session by deliver.ts. */
export type Delivery = {
  /** Looks for offers and stops now; calls during a look cause exactly one more. */
  ring(): void;
  /** The host's answer to an offer. */
  answer(answer: OfferAnswer): Promise<void>;
};

export type LiveSessions = {
  readonly byHost: ReadonlyMap<string, LiveSession>;
  /** Takes the place of an older session of the host, which is returned. */
  add(session: LiveSession): LiveSession | undefined;
  /** False: it is not the host's session (any more). */
  remove(session: LiveSession): boolean;
};

export const createLiveSessions = (): LiveSessions => {
  const byHost = new Map<string, LiveSession>();
  return {
    byHost,
    add: (session) => {
      const older = byHost.get(session.hostId);
      byHost.set(session.hostId, session);
      return older;
    },
    remove: (session) => byHost.get(session.hostId) === session && byHost.delete(session.hostId),
  };
};

/** Keeps of what is remembered by attempt only what the host still holds. */
export const forgetGone = (session: LiveSession, held: readonly HeldRecord[]): void => {
  const ids = new Set(held.map((attempt) => attempt.attemptId));
  for (const kept of [session.progress, session.running, session.stops, session.ended])
    for (const id of kept.keys()) if (!ids.has(id)) kept.delete(id);
};
