// Settles an attempt exactly once: prices what was measured, writes charges and the release of the hold, moves the job's sums.
// Compute time is measured by the database's clock; what an agent says of its own time is not used for money.
import type { AttemptOutcome } from "@renderplane/proto/kernel/stage-state.ts";
import { dollarsFromMicros, type Micros } from "@renderplane/proto/kernel/units.ts";
import { crossed } from "../domain/budget.ts";
import { priceUsage, type UsageRecord } from "../domain/pricing.ts";
import type { SheetAttempt, SheetStage } from "../store/sheet.ts";
import type { Context } from "./context.ts";
import type { JobSheet } from "./job-sheet.ts";

const isCompute = (use: UsageRecord): boolean => use.service === "cpu_compute" || use.service === "gpu_compute";

/** Answers what was charged. */
export const settle = (
  ctx: Context,
  sheet: JobSheet,
  r: {
    readonly stage: SheetStage;
    readonly attempt: SheetAttempt;
    readonly outcome: AttemptOutcome;
    readonly usage: readonly UsageRecord[];
  },
): Micros => {
  const { stage, attempt } = r;
  // Nothing costs money before the start: refused and expired offers are released whole.
  const usage =
    attempt.startedAt === null ? [] : [...r.usage.filter((use) => !isCompute(use)), ...computeOf(attempt, r.outcome)];
  const charges = priceUsage(ctx.prices, usage, stage.estimatedMicros);
  const chargedMicros = charges.reduce((sum, line) => sum + line.micros, 0n);
  const about = { jobId: attempt.jobId, attemptId: attempt.id };
  sheet.addLedger([
    ...charges.map((line) => ({ ...about, kind: "charge" as const, ...line })),
    { ...about, kind: "release", service: "stage", provider: "", micros: attempt.holdMicros, basis: {} },
  ]);
  const before = sheet.job(attempt.jobId)?.spentMicros ?? 0n;
  sheet.moveMoney(attempt.jobId, -attempt.holdMicros, chargedMicros);
  const after = before + chargedMicros;
  sheet.addEvents(
    crossed(ctx.settings.costLimits, before, after).map((level) => ({
      type: "cost.threshold",
      jobId: attempt.jobId,
      body: { video_id: attempt.jobId, level, total: dollarsFromMicros(after), stage: stage.name },
    })),
  );
  return chargedMicros;
};

/** A lost attempt costs until its last proof of life. */
const computeOf = (attempt: SheetAttempt, outcome: AttemptOutcome): UsageRecord[] => {
  const seconds = outcome === "lost" ? attempt.provenSeconds : attempt.seconds;
  const { cores, gpuUuid } = attempt.allocation;
  return [
    { service: "cpu_compute", provider: "host", unit: "core_second", quantity: cores * seconds },
    ...(gpuUuid === "" ? [] : [{ service: "gpu_compute", provider: "host", unit: "gpu_second", quantity: seconds }]),
  ];
};
