// Delivers results: each one is on disk before it is sent, is repeated with backoff and jitter until the control plane
// answers, and survives restarts, because the journal of a result is its attempt's folder. Leaves the folder to its owner.
// Keeps: a result that was refused twice for its form never blocks the others and is never lost: it is put away for a person, and a
// short one goes in its place, once.
import { type CompleteRequest, Outcome } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import { errorCodes, isCode, RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import type { Logger } from "@renderplane/proto/kernel/process/logger.ts";
import { createBackoff } from "./backoff.ts";
import type { ControlPlane } from "./contract.ts";

/** A lost packet is repeated soon; the cap is that of the reconnect loop, and a new session rings anyway. */
const pauses = { firstMs: 200, maxMs: 15_000 };
/** gRPC codes that a repetition cannot cure: INVALID_ARGUMENT, OUT_OF_RANGE. */
const malformedCodes: readonly number[] = [3, 11];
/** The second refusal proves that the first was no accident of the way. */
const maxRefusals = 2;
/** NOT_FOUND: the control plane does not know the attempt. */
const unknownCode = 5;

export type Completions = {
  /** Sends until answered; a second call for the same attempt changes nothing. */
  add(request: CompleteRequest): void;
  drop(attemptId: string): void;
  /**
   * Ends an attempt that is not here (its offer or our memory was lost) on the other side. Once for each call, and not while
   * one is under way: the stop that asked for it is repeated with every heartbeat.
   */
  disown(request: CompleteRequest): void;
  /** The way is open again: do not wait for the end of a pause. */
  ring(): void;
  /** Ends all loops; what is unanswered waits in its folder for the next start. */
  stop(): void;
};

export type Answer = "applied" | "stale" | "refused";

export const createCompletions = (options: {
  readonly complete: ControlPlane["complete"];
  readonly onAnswer: (attemptId: string, answer: Answer) => void;
  /** The result cannot be taken in this form; this one is sent from now on. */
  readonly onReplace: (replacement: CompleteRequest) => void;
  readonly log: Logger;
}): Completions => {
  const loops = new Map<string, { readonly abort: AbortController; wake: () => void }>();

  const deliver = async (request: CompleteRequest, abort: AbortSignal, pause: (ms: number) => Promise<void>) => {
    const log = options.log.child({ attempt_id: request.attemptId });
    let message = request;
    let refusals = 0;
    const nextPauseMs = createBackoff(pauses);
    for (let tries = 1; !abort.aborted; tries++) {
      try {
        const response = await options.complete(message);
        if (abort.aborted) return;
        log.info({ applied: response.applied, tries }, "result delivered");
        options.onAnswer(request.attemptId, response.applied ? "applied" : "stale");
        return;
      } catch (error) {
        if (abort.aborted) return;
        if (isCode(error, "lease_lost")) return options.onAnswer(request.attemptId, "stale");
        const code = grpcCodeOf(error);
        const isMalformed = malformedCodes.includes(code) || isCode(error, "body_too_large");
        if (isMalformed) refusals += 1;
        const isOver = isMalformed && refusals >= maxRefusals;
        if (code === unknownCode || (isOver && message !== request)) {
          log.error({ err: error }, "result refused for good");
          options.onAnswer(request.attemptId, "refused");
          return;
        }
        if (isOver) {
          message = replacementFor(request, error);
          refusals = 0;
          options.onReplace(message);
          continue;
        }
        if (tries === 1) log.warn({ err: error }, "result not delivered yet, retrying");
        await pause(nextPauseMs());
      }
    }
  };

  const disowning = new Set<string>();
  const disown = async (request: CompleteRequest) => {
    if (disowning.has(request.attemptId)) return;
    disowning.add(request.attemptId);
    try {
      await options.complete(request);
    } catch (error) {
      options.log.debug({ err: error, attempt_id: request.attemptId }, "stop of an unknown attempt not answered yet");
    } finally {
      disowning.delete(request.attemptId);
    }
  };

  const drop = (attemptId: string) => {
    const loop = loops.get(attemptId);
    loops.delete(attemptId);
    loop?.abort.abort();
    loop?.wake();
  };
  return {
    add: (request) => {
      if (loops.has(request.attemptId)) return;
      const abort = new AbortController();
      const loop = { abort, wake: () => {} };
      const pause = (ms: number) =>
        new Promise<void>((resolve) => {
          const timer = setTimeout(resolve, ms);
          loop.wake = () => {
            clearTimeout(timer);
            resolve();
          };
        });
      loops.set(request.attemptId, loop);
      void deliver(request, abort.signal, pause).finally(() => {
        if (loops.get(request.attemptId) === loop) loops.delete(request.attemptId);
      });
    },
    drop,
    disown: (request) => void disown(request),
    ring: () => {
      for (const loop of loops.values()) loop.wake();
    },
    stop: () => {
      for (const attemptId of [...loops.keys()]) drop(attemptId);
    },
  };
};

/** -1 for anything without a code: a fault of the way, worth repeating. */
export const grpcCodeOf = (error: unknown): number => {
  if (error instanceof RenderplaneError) return errorCodes[error.code].grpc;
  return error instanceof Error && "code" in error && typeof error.code === "number" ? error.code : -1;
};

const replacementFor = (request: CompleteRequest, error: unknown): CompleteRequest => ({
  ...request,
  outcome: Outcome.OUTCOME_FAILED,
  result: "{}",
  outputs: [],
  failure: {
    failureClass: "agent_bug",
    message:
      "The result is too large or malformed: the control plane refused it. The agent keeps it in its folder dead/ and names it in its log.",
    evidence: (error instanceof Error ? error.message : String(error)).slice(0, 1024),
    exit: "",
  },
});
