// What follows for the job after one of its stages moved, inside the same transaction: siblings of a failure are stopped,
// and when nothing is live any more the job ends, with its one terminal event. The caller holds the job's row.
import type { StageState } from "@renderplane/proto/kernel/stage-state.ts";
import { isFinalJob, isLeased } from "@renderplane/proto/kernel/stage-state.ts";
import { dollarsFromMicros } from "@renderplane/proto/kernel/units.ts";
import { deriveJobState } from "../domain/job.ts";
import type { JobRow, JsonObject, StageRow } from "../domain/records.ts";
import type { Tx } from "../store/database.ts";
import { appendEvents, type NewEvent } from "../store/events.ts";
import { endJob, setJobResult } from "../store/jobs.ts";
import { costsOf } from "../store/ledger.ts";
import { listStages, moveStages } from "../store/stages.ts";
import type { Context } from "./context.ts";

/** Answers whether the job ended now. */
export const advanceJob = async (ctx: Context, tx: Tx, job: JobRow): Promise<boolean> => {
  let stages = await listStages(tx, job.id);
  if (stages.some((s) => s.state === "failed") && stages.some((s) => !isSettled(s.state))) {
    // Nothing that follows a failure may cost more: what has not begun is skipped, what runs is stopped.
    await moveStages(tx, job.id, "skip");
    await moveStages(tx, job.id, "cancel");
    stages = await listStages(tx, job.id);
  }
  const state = deriveJobState(
    stages.map((s) => s.state),
    job.startedAt !== null,
  );
  if (!isFinalJob(state)) return false;
  const ended = await endJob(tx, job.id, state);
  if (!ended) return false;
  const result = await resultOf(tx, ended, stages);
  await setJobResult(tx, job.id, result);
  await appendEvents(tx, [terminalEvent(ended, result), ...overTarget(ctx, ended, result)]);
  ctx.log.info({ job: job.id, state, seconds: result.processing_time, cost: result.cost }, "job ended");
  return true;
};

const isSettled = (state: StageState): boolean =>
  isLeased(state)
    ? state === "cancelling"
    : state === "succeeded" || state === "failed" || state === "cancelled" || state === "skipped";

/** The result object of requirements 002: video_id, status, cost, processing_time, results by stage. */
const resultOf = async (tx: Tx, job: JobRow, stages: readonly StageRow[]): Promise<JsonObject> => {
  const started = job.startedAt ?? job.createdAt;
  const costs = await costsOf(tx, job.id);
  return {
    video_id: job.id,
    status: job.state,
    cost: dollarsFromMicros(job.spentMicros),
    costs: costs.map((c) => ({ service: c.service, provider: c.provider, amount: dollarsFromMicros(c.micros) })),
    processing_time: ((job.endedAt ?? started).getTime() - started.getTime()) / 1000,
    results: Object.fromEntries(stages.filter((s) => s.result !== null).map((s) => [s.name, s.result])),
  };
};

const terminalEvent = (job: JobRow, result: JsonObject): NewEvent => ({
  type: `job.${job.state}`,
  jobId: job.id,
  isTerminal: true,
  body: {
    complexity: job.complexity,
    cost: result.cost ?? 0,
    processing_time: result.processing_time ?? 0,
    ...(job.state === "completed" ? { results: result.results ?? {} } : {}),
    ...(job.state === "failed" ? { failure: job.failure as unknown as JsonObject } : {}),
  },
});

/** Requirements 002: a video that took longer than ten minutes, or cost more than the operational target, is reported. */
const overTarget = (ctx: Context, job: JobRow, result: JsonObject): NewEvent[] => {
  const target = ctx.pipelines.get(job.pipeline)?.target;
  if (!target || job.state !== "completed") return [];
  const seconds = Number(result.processing_time);
  const isSlow = seconds > target.seconds;
  const isDear = job.spentMicros > target.cost;
  if (!isSlow && !isDear) return [];
  ctx.log.warn({ job: job.id, seconds, targetSeconds: target.seconds, isDear }, "job over target");
  return [
    {
      type: "job.over_target",
      jobId: job.id,
      body: {
        seconds,
        target_seconds: target.seconds,
        cost: dollarsFromMicros(job.spentMicros),
        target_cost: dollarsFromMicros(target.cost),
        is_slow: isSlow,
        is_dear: isDear,
      },
    },
  ];
};
