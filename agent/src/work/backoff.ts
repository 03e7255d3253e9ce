// The one backoff of the agent's work room: exponential with decorrelated jitter, so that a fleet does not knock in step.
// Gives pauses only; the caller owns the timer, the limit and the reason to stop.
// Formula: AWS Architecture Blog, "Exponential Backoff And Jitter"; each pause is random between the first and three times the last.

/** Every call gives the next pause in milliseconds. */
export const createBackoff = (
  pauses: { readonly firstMs: number; readonly maxMs: number },
  random: () => number = Math.random,
): (() => number) => {
  let lastMs = pauses.firstMs;
  return () => {
    lastMs = Math.min(pauses.maxMs, pauses.firstMs + random() * (3 * lastMs - pauses.firstMs));
    return lastMs;
  };
};
