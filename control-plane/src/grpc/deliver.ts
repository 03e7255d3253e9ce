// Brings to a host what waits for it: offers, starts and stops. The store decides what those are; this asks at a bell, at an answer
// and by a slow poll, so that losing every bell costs seconds and nothing else. Looks of one session never overlap.

import { SessionResponse } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import { isCode, type RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { factsOf } from "@renderplane/proto/kernel/failure.ts";
import { maxControlMessageBytes } from "@renderplane/proto/kernel/limits.ts";
import type { Logger } from "@renderplane/proto/kernel/process/logger.ts";
import { type Rhythm, rhythm } from "@renderplane/proto/kernel/process/rhythm.ts";
import type { OfferRecord } from "../operations/take-offers.ts";
import { refusalRecord } from "./completion.ts";
import { offerMessage, stopMessage } from "./convert.ts";
import type { Delivery, LiveSession, LiveSessions } from "./live-session.ts";
import type { EndRecord, GrpcOperations } from "./operations.ts";

/** How often every host is looked after without a bell. */
const pollMs = 2000;
/** Hosts that the poll looks after in a second: with more hosts the poll slows down, so that it never is the database's load. */
const pollsPerSecond = 250;
/** An accept that the database could not take is tried again this often; the offer's own time limit ends it. */
const answerTries = 5;
const answerPauseMs = 500;

type Parts = { readonly operations: GrpcOperations; readonly leaseMs: number; readonly log: Logger };

export const createDelivery = (session: LiveSession, parts: Parts): Delivery => {
  const { operations, leaseMs, log } = parts;
  const { hostId, epoch } = session;
  let isLooking = false;
  let isRung = false;

  const look = async () => {
    const [offers, stops] = await Promise.allSettled([
      operations.takeOffers({ hostId, epoch }),
      operations.takeStops({ hostId, epoch }),
    ]);
    // Offers that were taken count as sent: they leave before anything that may fail.
    const tooLarge =
      offers.status === "fulfilled" ? offers.value.filter((offer) => !sendOffer(session, offer, leaseMs)) : [];
    for (const stop of stops.status === "fulfilled" ? stops.value : []) {
      if (session.stops.has(stop.attemptId)) continue;
      session.stops.set(stop.attemptId, stop);
      session.send({ $case: "stop", value: stopMessage(stop) }, { urgent: true });
    }
    for (const offer of tooLarge) await operations.finishAttempt(tooLargeRecord(offer, hostId));
    for (const taken of [offers, stops]) if (taken.status === "rejected") throw taken.reason;
  };

  return {
    ring: () => {
      isRung = true;
      if (isLooking) return;
      isLooking = true;
      void (async () => {
        try {
          while (isRung) {
            isRung = false;
            await look();
          }
        } catch (error) {
          if (isCode(error, "superseded")) session.close(error as RenderplaneError);
          else log.warn({ err: error }, "what waits for the host could not be read; the next look follows");
        } finally {
          isLooking = false;
        }
      })();
    },
    answer: async (answer) => {
      const { attemptId, fence } = answer;
      if (!answer.accepted) {
        await operations.finishAttempt(refusalRecord(answer, hostId));
        return;
      }
      const isOurs = await persistently(() => operations.acceptOffer({ hostId, epoch, attemptId, fence }));
      if (isOurs) {
        session.running.set(attemptId, fence);
        session.send({ $case: "start", value: { attemptId, fence } }, { urgent: true });
      } else {
        // Too late because the job is being cancelled is another stop than too late because the lease is somebody else's.
        const waiting = await operations.takeStops({ hostId, epoch });
        const known = waiting.find((stop) => stop.attemptId === attemptId && stop.fence === fence);
        const stop = stopMessage(known ?? { attemptId, fence, reason: "lease_lost" });
        session.send({ $case: "stop", value: stop }, { urgent: true });
      }
    },
  };
};

/** Again while the database is away; the accept is idempotent by attempt and fence. */
const persistently = async <T>(act: () => Promise<T>): Promise<T> => {
  for (let attempt = 1; ; attempt++) {
    try {
      return await act();
    } catch (error) {
      if (attempt >= answerTries || !isCode(error, "unavailable")) throw error;
      await new Promise((resolve) => setTimeout(resolve, answerPauseMs));
    }
  }
};

/** False: it is too large for the wire and was not sent. */
const sendOffer = (session: LiveSession, offer: OfferRecord, leaseMs: number): boolean => {
  const message = { $case: "offer" as const, value: offerMessage(offer, leaseMs) };
  if (SessionResponse.encode({ message }).finish().length > maxControlMessageBytes) return false;
  session.send(message);
  return true;
};

/** Sent, it would end the stream and come back for ever; so it ends its attempt instead. */
const tooLargeRecord = (offer: OfferRecord, hostId: string): EndRecord => ({
  attemptId: offer.attemptId,
  fence: offer.fence,
  hostId,
  outcome: "failed",
  result: {},
  outputs: [],
  failure: {
    failureClass: "input_invalid",
    severity: factsOf("input_invalid").severity,
    message: `the offer of stage ${offer.stage} is larger than the ${maxControlMessageBytes} bytes that can be sent; submit a smaller request or fewer files`,
    stage: offer.stage,
  },
  usage: [],
});

/** The backstop over all sessions of this replica. */
export const createPoll = (
  sessions: LiveSessions,
  deliveries: ReadonlyMap<LiveSession, Delivery>,
  log: Logger,
): Rhythm =>
  rhythm({
    name: "host-poll",
    periodMs: pollMs,
    turn: async () => {
      for (const session of sessions.byHost.values()) deliveries.get(session)?.ring();
      return Math.max(pollMs, (sessions.byHost.size / pollsPerSecond) * 1000);
    },
    onError: (error) => log.error({ err: error }, "the poll over hosts failed"),
  });
