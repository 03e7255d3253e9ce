// A gate in front of acts that cost a handshake's worth of database work: so many a second, more are sent away with a time to
// come back, spread at random, before anything else is done for them.
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";

/** Measured: about 320 handshakes with Hello a second saturate a core; two thirds of that leave room for heartbeats. */
export const hellosPerSecond = 200;
/** Enrolments sign a certificate and are rare; a fleet of 1,000 hosts still joins within a minute. */
export const enrolmentsPerSecond = 20;

/** Throws `unavailable` with retryAfterMs of 1-10 s when the gate is shut. A full second's worth may arrive at once. */
export const createGate = (perSecond: number, what: string, now: () => number = () => performance.now()) => {
  let tokens = perSecond;
  let last = now();
  return (): void => {
    tokens = Math.min(perSecond, tokens + ((now() - last) / 1000) * perSecond);
    last = now();
    if (tokens < 1)
      throw new RenderplaneError(
        "unavailable",
        `more than ${perSecond} ${what} a second arrive; come back in a moment`,
        {
          retryAfterMs: 1000 + Math.random() * 9000,
        },
      );
    tokens -= 1;
  };
};
