// Looks after all sessions of this replica without a bell, so that losing every bell costs a second and nothing else: rings the hosts
// for which something waits, and ends the streams of hosts that are not accepted any more. Two statements a turn, whatever the
// number of hosts. Which session is refused is said by the store; only which status it gets is said here.
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import type { Timings } from "@renderplane/proto/kernel/limits.ts";
import type { Logger } from "@renderplane/proto/kernel/process/logger.ts";
import { type Rhythm, rhythm } from "@renderplane/proto/kernel/process/rhythm.ts";
import type { Delivery, LiveSession, LiveSessions } from "./live-session.ts";
import type { GrpcOperations, RefusedSession } from "./operations.ts";

/** At the default heartbeat of 5 s once a second; never more than ten times a second. */
const turnsPerHeartbeat = 5;
const minPeriodMs = 100;
/** A fact may be written by a transaction that commits this long after the fact's time: transactions are cut off before. */
const lateCommitMs = 60_000;
/** A certificate is asked for again when the last answered look is older than this, so that nothing is accepted 5 s after its end. */
const freshMs = 3000;

export type Watch = {
  readonly rhythm: Rhythm;
  /** The session was found to be over: ends it with the status that the store knows for it, otherwise with this one. */
  judge(session: LiveSession, otherwise: RenderplaneError): void;
  /** A session of the host is open under this certificate, and the last look found nothing against it. */
  isTrusted(hostId: string, serial: string): boolean;
};

export const createWatch = (parts: {
  readonly sessions: LiveSessions;
  readonly deliveries: ReadonlyMap<LiveSession, Delivery>;
  readonly operations: Pick<GrpcOperations, "waitingHosts" | "refusedSessions">;
  readonly timings: Timings;
  readonly log: Logger;
}): Watch => {
  const { sessions, deliveries, operations } = parts;
  const periodMs = Math.max(minPeriodMs, parts.timings.heartbeatMs / turnsPerHeartbeat);
  /** Found to be over; they end after the next look, which may know a better reason. */
  const over = new Map<LiveSession, RenderplaneError>();
  let askedAt = performance.now();
  let isAnswered = false;

  const endRefused = async () => {
    const at = performance.now();
    const refused = await operations.refusedSessions({ windowMs: at - askedAt + lateCommitMs });
    for (const fact of refused) {
      const session = sessions.byHost.get(fact.hostId);
      if (session && concerns(fact, session)) session.close(refusalOf(fact));
    }
    askedAt = at;
    isAnswered = true;
  };
  const ringWaiting = async () => {
    for (const hostId of await operations.waitingHosts()) {
      const session = sessions.byHost.get(hostId);
      if (session) deliveries.get(session)?.ring();
    }
  };

  const turns = rhythm({
    name: "session-watch",
    periodMs,
    turn: async () => {
      const ending = [...over];
      over.clear();
      if (sessions.byHost.size === 0) {
        askedAt = performance.now();
        return;
      }
      const done = await Promise.allSettled([endRefused(), ringWaiting()]);
      for (const [session, reason] of ending) session.close(reason);
      for (const part of done) if (part.status === "rejected") throw part.reason;
    },
    errorPauseMs: Math.min(1000, periodMs * 2),
    onError: (error) => parts.log.warn({ err: error }, "what waits for hosts could not be read; the next look follows"),
  });
  return {
    rhythm: turns,
    judge: (session, otherwise) => {
      over.set(session, otherwise);
      turns.ring();
    },
    isTrusted: (hostId, serial) =>
      isAnswered && performance.now() - askedAt < freshMs && sessions.byHost.get(hostId)?.serial === serial,
  };
};

const concerns = ({ epoch, serial }: RefusedSession, session: LiveSession): boolean =>
  (epoch === null || session.epoch < epoch) && (serial === null || session.serial === serial);

const refusals: { readonly [W in Exclude<RefusedSession["why"], "moved">]: string } = {
  revoked: "the certificate of this host was revoked; enrol the host again with a new join token",
  copied: "the identity of this host was used by two agents; the host is quarantined until an operator releases it",
  replaced: "the certificate of this session was replaced and its successor is in use; connect with the new one",
};
const refusalOf = ({ why }: RefusedSession): RenderplaneError =>
  why === "moved" ? superseded() : new RenderplaneError("certificate_refused", refusals[why]);

export const superseded = (): RenderplaneError =>
  new RenderplaneError("superseded", "a newer session of this host is open; only one agent may use its identity");
