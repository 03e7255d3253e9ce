// The place of a job in the queue as one number, smallest first, so that one index holds the order.
// Requirements 002: older first, one step of priority is worth 100,000 seconds of age, premium 50,000.
import type { Complexity } from "./records.ts";

const priorityMs = 100_000_000n;
const premiumMs = 50_000_000n;

/** `baseMs`: where the job stands in time (Unix milliseconds), before its priority. */
export const rankOf = (job: {
  readonly baseMs: number;
  readonly priority: number;
  readonly complexity: Complexity;
}): bigint =>
  BigInt(Math.round(job.baseMs)) - BigInt(job.priority) * priorityMs - (job.complexity === "premium" ? premiumMs : 0n);
