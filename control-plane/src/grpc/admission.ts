// Gates in front of acts that cost a handshake's worth of database work. All of them let a second's worth in at once; a herd may wait
// a moment in the gate, where it costs a timer, and what would wait longer is sent away with a time to come back, spread at random.
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";

/**
 * Measured: about 320 handshakes with Hello a second saturate a core, so a herd arrives at 320 a second; two thirds of that leave
 * room for heartbeats. A thousand hosts that come at once are all in after four seconds and none is sent away.
 */
export const hellosPerSecond = 200;
/** Below the time an agent waits for its answer (10 s) and long enough for a herd of 1,000. */
export const maxHelloWaitMs = 2000;
/** Enrolments sign a certificate and are rare; a fleet of 1,000 hosts still joins within a minute. */
export const enrolmentsPerSecond = 20;
/** Hellos of one host: an agent that dies at every start must not use up the gate of all. */
export const hellosPerHost = { perSecond: 2, burst: 30 };
/** Hosts whose Hellos are counted; beyond it the oldest is forgotten, which only lets it in earlier. */
const maxHosts = 20_000;

type Now = () => number;

/** How long the next one must wait (ms); takes its place unless that is longer than `maxWaitMs`. */
const createBucket = (perSecond: number, burst: number, now: Now) => {
  let tokens = burst;
  let last = now();
  return (maxWaitMs: number): number => {
    tokens = Math.min(burst, tokens + ((now() - last) / 1000) * perSecond);
    last = now();
    const waitMs = Math.max(0, ((1 - tokens) / perSecond) * 1000);
    if (waitMs <= maxWaitMs) tokens -= 1;
    return waitMs;
  };
};

const sentAway = (text: string): RenderplaneError =>
  new RenderplaneError("unavailable", text, { retryAfterMs: 1000 + Math.random() * 9000 });

export type Gate = {
  /** Resolves when it is this one's turn; throws `unavailable` with retryAfterMs of 1-10 s when that would be too late. */
  admit(): Promise<void>;
  /** Since the start. */
  sentAway(): number;
};

export const createGate = (
  perSecond: number,
  what: string,
  options: { readonly maxWaitMs?: number; readonly now?: Now } = {},
): Gate => {
  const { maxWaitMs = 0, now = () => performance.now() } = options;
  const take = createBucket(perSecond, perSecond, now);
  let away = 0;
  return {
    admit: async () => {
      const waitMs = take(maxWaitMs);
      if (waitMs > maxWaitMs) {
        away += 1;
        throw sentAway(`more than ${perSecond} ${what} a second arrive; come back in a moment`);
      }
      if (waitMs > 0) await new Promise((resolve) => setTimeout(resolve, waitMs));
    },
    sentAway: () => away,
  };
};

/** Throws `unavailable` when this host says Hello too often. */
export const createHostGate = (now: Now = () => performance.now()): ((hostId: string) => void) => {
  const buckets = new Map<string, ReturnType<typeof createBucket>>();
  return (hostId) => {
    const bucket = buckets.get(hostId) ?? createBucket(hellosPerHost.perSecond, hellosPerHost.burst, now);
    buckets.delete(hostId);
    buckets.set(hostId, bucket);
    const oldest = buckets.size > maxHosts ? buckets.keys().next().value : undefined;
    if (oldest !== undefined) buckets.delete(oldest);
    if (bucket(0) > 0)
      throw sentAway(`this host opens more than ${hellosPerHost.perSecond} sessions a second; come back in a moment`);
  };
};
