// One open stream of one host, as the rest of the edge sees it: who it is, what it reported last, what is known of its attempts, and
// how to send to it or end it. The stream's own protocol is session.ts; the rhythms over all sessions are watch.ts and renew.ts.
import type { OfferAnswer, Progress } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import type { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import type { JsonObject } from "../domain/records.ts";
import type { HeldRecord, StopRecord } from "./operations.ts";
import type { Outgoing, Urgency } from "./outbound.ts";

/** What this stream knows of an attempt; forgotten when two heartbeats in a row do not name it. */
export type KnownAttempt = {
  readonly fence: bigint;
  /** It runs here by our word: only then its progress is passed on. */
  isRunning: boolean;
  /** Ended through Complete while a heartbeat on its way may still name it: not a lost lease. */
  hasEnded: boolean;
  /** Was sent, and is repeated until the attempt is gone. */
  stop: StopRecord | undefined;
  progress: Progress | undefined;
  /** Heartbeats in a row that did not name it. */
  unnamed: number;
};

export type LiveSession = {
  readonly hostId: string;
  readonly epoch: bigint;
  /** Of the certificate that the stream was opened with. */
  readonly serial: string;
  readonly protocol: number;
  /** The newest heartbeat that has not been acknowledged. */
  heartbeat: { readonly sequence: bigint; readonly held: readonly HeldRecord[] } | undefined;
  health: JsonObject;
  readonly attempts: Map<string, KnownAttempt>;
  /** It was asked to go to another replica. */
  isLeaving: boolean;
  /** False: larger than a message may be, and not sent. A keyed message replaces its older self. */
  send(message: Outgoing, urgency: Urgency, key?: string): boolean;
  /** True once offers may be sent; false when the stream is over. */
  room(): Promise<boolean>;
  waiting(): { readonly messages: number; readonly bytes: number };
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

/** What is known of an attempt, begun afresh when it is new or known under another fence. */
export const knownAttempt = (session: LiveSession, attemptId: string, fence: bigint): KnownAttempt => {
  const known = session.attempts.get(attemptId);
  if (known?.fence === fence) return known;
  const begun = { fence, isRunning: false, hasEnded: false, stop: undefined, progress: undefined, unnamed: 0 };
  session.attempts.set(attemptId, begun);
  return begun;
};

/** A heartbeat may have been put together before the host took the attempt, and be sent after it; the next one knows it. */
const goneAfter = 2;

/** Keeps of what is known only what the host still holds. */
export const forgetGone = (session: LiveSession, held: readonly HeldRecord[]): void => {
  if (session.attempts.size === 0) return;
  const ids = new Set(held.map((attempt) => attempt.attemptId));
  for (const [id, known] of session.attempts) {
    known.unnamed = ids.has(id) ? 0 : known.unnamed + 1;
    if (known.unnamed >= goneAfter) session.attempts.delete(id);
  }
};
