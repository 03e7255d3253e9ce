// What one message of an open session does. Heartbeats and progress are noted for the next turn of the renewals; answers to offers
// go to the delivery, so many at once and no more. Throws a refusal that ends the stream.
import type { SessionRequest } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import type { Logger } from "@renderplane/proto/kernel/process/logger.ts";
import { attemptIdPattern, cleanText, healthRecord, heldRecords, refuse } from "./convert.ts";
import { type Delivery, forgetGone, type LiveSession } from "./live-session.ts";
import { fractionOf } from "./renew.ts";

export type LiveProgress = {
  readonly attemptId: string;
  readonly hostId: string;
  /** 0..1 of the attempt. */
  readonly fraction: number;
  readonly speed: number;
  /** null: unknown. */
  readonly etaMs: number | null;
  readonly step: string;
};
/** Every message but the two that concern the stream itself. */
export type Said = Exclude<NonNullable<SessionRequest["message"]>, { $case: "goodbye" } | { $case: "batch" }>;

/** Answers to offers in work at once; a host is never offered more. More than this is a peer that floods. */
const maxAnswers = 256;

export const takeMessage = (
  message: Said,
  session: LiveSession,
  parts: {
    readonly delivery: Delivery;
    readonly progressed: (progress: LiveProgress) => void;
    readonly answers: { inWork: number };
    readonly log: Logger;
  },
): void => {
  switch (message.$case) {
    case "hello":
      throw new RenderplaneError("invalid_request", "a second Hello arrived; a stream has exactly one");
    case "heartbeat": {
      const held = heldRecords(message.value.attempts);
      if (message.value.health) session.health = healthRecord(message.value.health);
      session.heartbeat = { sequence: message.value.sequence, held };
      forgetGone(session, held);
      return;
    }
    case "progress": {
      const { attemptId, fence, fraction, speed, etaMs, step } = message.value;
      const known = session.attempts.get(attemptId);
      if (!known?.isRunning || known.fence !== fence) return;
      known.progress = message.value;
      parts.progressed({
        attemptId,
        hostId: session.hostId,
        fraction: fractionOf(fraction),
        speed: Number.isFinite(speed) ? Math.max(0, speed) : 0,
        etaMs: etaMs < 0n ? null : Number(etaMs),
        step: cleanText(step),
      });
      return;
    }
    case "offerAnswer": {
      const { delivery, answers, log } = parts;
      if (!attemptIdPattern.test(message.value.attemptId)) refuse("/attempt_id", "is not the id of an attempt");
      if (answers.inWork >= maxAnswers)
        throw new RenderplaneError("invalid_request", `more than ${maxAnswers} answers to offers are in work`);
      answers.inWork += 1;
      void (async () => {
        try {
          await delivery.answer(message.value);
        } catch (error) {
          // The offer's own time limit returns it to the queue; the stream goes on.
          log.warn({ err: error, attemptId: message.value.attemptId }, "an answer to an offer could not be stored");
        } finally {
          answers.inWork -= 1;
        }
      })();
      return;
    }
  }
};
