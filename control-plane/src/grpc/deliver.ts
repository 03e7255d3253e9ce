// Brings to a host what waits for it: offers, starts and stops. The store decides what those are; this asks at a bell and at the
// watch's turn (watch.ts). Looks of one kind never overlap, and stops never wait behind offers that the host is slow to take.
import { isCode, type RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { factsOf } from "@renderplane/proto/kernel/failure.ts";
import { maxControlMessageBytes } from "@renderplane/proto/kernel/limits.ts";
import type { Logger } from "@renderplane/proto/kernel/process/logger.ts";
import type { OfferRecord } from "../operations/take-offers.ts";
import { again } from "./again.ts";
import { refusalRecord } from "./completion.ts";
import { offerMessage, stopMessage } from "./convert.ts";
import { type Delivery, knownAttempt, type LiveSession } from "./live-session.ts";
import type { EndRecord, GrpcOperations, StopRecord } from "./operations.ts";

/** An accept that the database could not take is tried again this often; the offer's own time limit ends it. */
const answerTries = 5;
const answerPauseMs = 500;

export type DeliveryParts = {
  readonly operations: Pick<GrpcOperations, "takeOffers" | "takeStops" | "acceptOffer" | "finishAttempt">;
  readonly leaseMs: number;
  readonly log: Logger;
  /** While it says so no offers are taken: they go to other replicas' hosts when their time is over. */
  isPaused(): boolean;
  /** The store says that this session is not the host's any more. */
  judge(session: LiveSession, otherwise: RenderplaneError): void;
};

export const createDelivery = (session: LiveSession, parts: DeliveryParts): Delivery => {
  const { operations, leaseMs } = parts;
  const { hostId, epoch } = session;
  const who = { hostId, epoch };

  const onError = (error: unknown) => {
    if (isCode(error, "superseded")) parts.judge(session, error as RenderplaneError);
    else parts.log.warn({ err: error, hostId }, "what waits for the host could not be read; the next look follows");
  };
  const lookForStops = again(async () => {
    for (const stop of await operations.takeStops(who)) {
      const known = knownAttempt(session, stop.attemptId, stop.fence);
      if (known.stop?.reason === stop.reason) continue;
      known.stop = stop;
      sendStop(stop);
    }
  }, onError);
  const lookForOffers = again(async () => {
    // What is not taken stays in the store, where another session may find it.
    if (parts.isPaused() || session.isLeaving || !(await session.room())) return;
    for (const offer of await operations.takeOffers(who)) {
      if (!(await session.room())) return;
      const isSent = session.send({ $case: "offer", value: offerMessage(offer, leaseMs) }, "offer");
      if (!isSent) await operations.finishAttempt(tooLargeRecord(offer, hostId));
    }
  }, onError);
  const sendStop = (stop: StopRecord) => session.send({ $case: "stop", value: stopMessage(stop) }, "verdict");

  return {
    ring: () => {
      lookForStops();
      lookForOffers();
    },
    answer: async (answer) => {
      const { attemptId, fence } = answer;
      if (!answer.accepted) {
        await operations.finishAttempt(refusalRecord(answer, hostId));
        return;
      }
      if (await persistently(() => operations.acceptOffer({ hostId, epoch, attemptId, fence }))) {
        knownAttempt(session, attemptId, fence).isRunning = true;
        session.send({ $case: "start", value: { attemptId, fence } }, "start");
        return;
      }
      // Too late because the job is being cancelled is another stop than too late because the lease is somebody else's.
      const waiting = await operations.takeStops(who);
      const known = waiting.find((stop) => stop.attemptId === attemptId && stop.fence === fence);
      sendStop(known ?? { attemptId, fence, reason: "lease_lost" });
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
