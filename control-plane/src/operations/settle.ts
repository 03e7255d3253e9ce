// Settles an attempt exactly once: prices what was measured, writes charges and the release of the hold, moves the job's sums.
// Compute time is measured by the database's clock; what an agent says of its own time is not used for money.
import type { AttemptOutcome } from "@renderplane/proto/kernel/stage-state.ts";
import { dollarsFromMicros, type Micros } from "@renderplane/proto/kernel/units.ts";
import { crossed } from "../domain/budget.ts";
import { priceUsage, type UsageRecord } from "../domain/pricing.ts";
import type { AttemptRow, JobRow, StageRow } from "../domain/records.ts";
import { attemptSeconds } from "../store/attempts.ts";
import type { Tx } from "../store/database.ts";
import { appendEvents } from "../store/events.ts";
import { moveJobMoney } from "../store/jobs.ts";
import { appendLedger } from "../store/ledger.ts";
import type { Context } from "./context.ts";

const isCompute = (use: UsageRecord): boolean => use.service === "cpu_compute" || use.service === "gpu_compute";

/** Answers the job with its new sums. The caller holds job, stage and attempt. */
export const settle = async (
  ctx: Context,
  tx: Tx,
  r: {
    readonly job: JobRow;
    readonly stage: StageRow;
    readonly attempt: AttemptRow;
    readonly outcome: AttemptOutcome;
    readonly usage: readonly UsageRecord[];
  },
): Promise<{ readonly job: JobRow; readonly chargedMicros: Micros }> => {
  const { job, stage, attempt } = r;
  // Nothing costs money before the start: refused and expired offers are released whole.
  const usage =
    attempt.startedAt === null
      ? []
      : [...r.usage.filter((use) => !isCompute(use)), ...(await computeOf(ctx, tx, attempt, r.outcome))];
  const charges = priceUsage(ctx.prices, usage, stage.estimatedMicros);
  const chargedMicros = charges.reduce((sum, line) => sum + line.micros, 0n);
  const about = { jobId: job.id, attemptId: attempt.id };
  await appendLedger(tx, [
    ...charges.map((line) => ({ ...about, kind: "charge" as const, ...line })),
    { ...about, kind: "release", service: "stage", provider: "", micros: attempt.holdMicros, basis: {} },
  ]);
  await moveJobMoney(tx, job.id, -attempt.holdMicros, chargedMicros);
  const after = job.spentMicros + chargedMicros;
  await appendEvents(
    tx,
    crossed(ctx.settings.costLimits, job.spentMicros, after).map((level) => ({
      type: "cost.threshold",
      jobId: job.id,
      body: { video_id: job.id, level, total: dollarsFromMicros(after), stage: stage.name },
    })),
  );
  return { job: { ...job, heldMicros: job.heldMicros - attempt.holdMicros, spentMicros: after }, chargedMicros };
};

const computeOf = async (
  ctx: Context,
  tx: Tx,
  attempt: AttemptRow,
  outcome: AttemptOutcome,
): Promise<UsageRecord[]> => {
  const seconds = await attemptSeconds(tx, attempt.id, ctx.timings.leaseMs, outcome === "lost");
  const { cores, gpuUuid } = attempt.allocation;
  return [
    { service: "cpu_compute", provider: "host", unit: "core_second", quantity: cores * seconds },
    ...(gpuUuid === "" ? [] : [{ service: "gpu_compute", provider: "host", unit: "gpu_second", quantity: seconds }]),
  ];
};
