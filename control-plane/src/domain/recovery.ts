// What follows when an attempt did not succeed: an ordered table of rules, first match wins, the last one is total.
// Pure: facts in, verdict out; the verdict's rule and facts are stored on the attempt and shown by `explain`.
import { type FailureClass, factsOf, isFailureClass } from "@renderplane/proto/kernel/failure.ts";
import type { AttemptOutcome } from "@renderplane/proto/kernel/stage-state.ts";

export type RecoveryFacts = {
  readonly outcome: Exclude<AttemptOutcome, "succeeded">;
  /** "" when the outcome carries no failure (refused, expired). */
  readonly failureClass: string;
  /** Tries that counted, including this one when it counts. */
  readonly tries: number;
  /** Tries after the first that the pipeline allows. */
  readonly retries: number;
  readonly backoffMs: number;
  readonly isCancelling: boolean;
  /** The offer left for the host; one that never did says nothing about it. */
  readonly wasSent: boolean;
  /** Attempts in a row that ended without counting (refused, expired, interrupted, given back); bounds such a loop's speed. */
  readonly uncounted: number;
};
export type RecoveryVerdict =
  | { readonly action: "cancelled"; readonly rule: string }
  | { readonly action: "requeue"; readonly rule: string; readonly delayMs: number; readonly avoidHost: boolean }
  | { readonly action: "retry"; readonly rule: string; readonly delayMs: number; readonly avoidHost: boolean }
  | { readonly action: "fail"; readonly rule: string };

/** Requirements 002: doubling, never above five minutes. */
const maxBackoffMs = 300_000;
/** A host that refused is asked again after a second, doubling to ten: capacity comes back quickly. */
const refusalMs = (uncounted: number): number => Math.min(1_000 * 2 ** Math.min(uncounted, 10), 10_000);
/** Work that a host gave back goes on at once; again and again without a try that counts, as slowly as refusals. */
const givenBackMs = (uncounted: number): number => (uncounted === 0 ? 0 : refusalMs(uncounted));

/** Outcomes that say nothing against the work. */
export const countsAsTry = (outcome: AttemptOutcome): boolean =>
  outcome === "failed" || outcome === "lost" || outcome === "succeeded";

type Rule = {
  readonly name: string;
  readonly when: (f: RecoveryFacts) => boolean;
  readonly verdict: (f: RecoveryFacts, rule: string) => RecoveryVerdict;
};

export const recoveryRules: readonly Rule[] = [
  { name: "cancel-wins", when: (f) => f.isCancelling, verdict: (_, rule) => ({ action: "cancelled", rule }) },
  {
    name: "cancelled-by-host",
    when: (f) => f.outcome === "cancelled",
    verdict: (f, rule) => ({ action: "requeue", rule, delayMs: givenBackMs(f.uncounted), avoidHost: false }),
  },
  // Three hosts, or one three times, could not even read the offer: no host will, and waiting hides a bug.
  {
    name: "offer-unreadable",
    when: (f) => f.outcome === "refused" && f.failureClass === "agent_bug" && f.uncounted >= 2,
    verdict: (_, rule) => ({ action: "fail", rule }),
  },
  {
    name: "refused",
    when: (f) => f.outcome === "refused",
    verdict: (f, rule) => ({ action: "requeue", rule, delayMs: refusalMs(f.uncounted), avoidHost: true }),
  },
  {
    name: "offer-not-sent",
    when: (f) => f.outcome === "expired" && !f.wasSent,
    verdict: (f, rule) => ({ action: "requeue", rule, delayMs: givenBackMs(f.uncounted), avoidHost: false }),
  },
  {
    name: "offer-expired",
    when: (f) => f.outcome === "expired",
    verdict: (f, rule) => ({ action: "requeue", rule, delayMs: refusalMs(f.uncounted), avoidHost: true }),
  },
  {
    name: "interrupted",
    when: (f) => f.outcome === "interrupted",
    verdict: (f, rule) => ({ action: "requeue", rule, delayMs: givenBackMs(f.uncounted), avoidHost: false }),
  },
  { name: "not-retryable", when: (f) => placeOf(f) === "never", verdict: (_, rule) => ({ action: "fail", rule }) },
  { name: "tries-used-up", when: (f) => f.tries > f.retries, verdict: (_, rule) => ({ action: "fail", rule }) },
  // A lost host costs the stage its time already; waiting longer helps nobody, the host is avoided instead.
  {
    name: "lost-host",
    when: (f) => f.outcome === "lost",
    verdict: (_, rule) => ({ action: "retry", rule, delayMs: 0, avoidHost: true }),
  },
  {
    name: "retry-elsewhere",
    when: (f) => placeOf(f) === "elsewhere",
    verdict: (f, rule) => ({ action: "retry", rule, delayMs: backoff(f), avoidHost: true }),
  },
  {
    name: "retry",
    when: () => true,
    verdict: (f, rule) => ({ action: "retry", rule, delayMs: backoff(f), avoidHost: false }),
  },
];

export const recover = (facts: RecoveryFacts): RecoveryVerdict => {
  for (const rule of recoveryRules) if (rule.when(facts)) return rule.verdict(facts, rule.name);
  throw new Error("the last recovery rule is total");
};

const placeOf = (f: RecoveryFacts) =>
  factsOf(isFailureClass(f.failureClass) ? (f.failureClass as FailureClass) : "unknown").retry;
const backoff = (f: RecoveryFacts): number => Math.min(f.backoffMs * 2 ** Math.max(0, f.tries - 1), maxBackoffMs);
