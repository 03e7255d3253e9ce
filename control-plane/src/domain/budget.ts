// May a stage begin, and which thresholds has a job crossed. Amounts are micro-dollars; requirements 002 sets the defaults
// (warning 2.50, critical 2.80, halt 3.00). Holds count as spent: money is reserved before it is spent.
import { formatMicros, type Micros } from "@renderplane/proto/kernel/units.ts";

export type CostLimits = { readonly warning: Micros; readonly critical: Micros; readonly halt: Micros };
export const costLevels = ["warning", "critical", "halt"] as const;
export type CostLevel = (typeof costLevels)[number];

export type HoldVerdict =
  | { readonly ok: true; readonly rule: "within-limit" }
  | { readonly ok: false; readonly rule: "cost-limit"; readonly reason: string };

/** Requirements 002: "Cost limit exceeded at <stage>" when total + estimate > halt. Equal is allowed. */
export const admitHold = (
  job: { readonly spentMicros: Micros; readonly heldMicros: Micros; readonly haltMicros: Micros },
  stage: string,
  estimateMicros: Micros,
): HoldVerdict => {
  const after = job.spentMicros + job.heldMicros + estimateMicros;
  if (after <= job.haltMicros) return { ok: true, rule: "within-limit" };
  return {
    ok: false,
    rule: "cost-limit",
    reason: `Cost limit exceeded at ${stage}: ${formatMicros(job.spentMicros)} spent, ${formatMicros(job.heldMicros)} reserved and ${formatMicros(estimateMicros)} for this stage would pass the limit of ${formatMicros(job.haltMicros)}. Raise cost_limit and submit again.`,
  };
};

/** The thresholds that lie in (before, after]: each is reported once in the life of a job. */
export const crossed = (limits: CostLimits, before: Micros, after: Micros): CostLevel[] =>
  costLevels.filter((level) => before < limits[level] && limits[level] <= after);
