// The one backoff of the agent's work room: exponential with decorrelated jitter, so that a fleet does not knock in step.
// Gives pauses only; the caller owns the timer, the limit and the reason to stop.
import { decorrelatedJitterGenerator, ExponentialBackoff, type IBackoffFactory } from "cockatiel";

/** Every call gives the next pause in milliseconds. */
export const createBackoff = (pauses: { readonly firstMs: number; readonly maxMs: number }): (() => number) => {
  let backoff: IBackoffFactory<unknown> = new ExponentialBackoff({
    initialDelay: pauses.firstMs,
    maxDelay: pauses.maxMs,
    generator: decorrelatedJitterGenerator,
  });
  return () => {
    const next = backoff.next(undefined);
    backoff = next;
    return next.duration;
  };
};
