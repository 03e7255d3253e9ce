// What the end of a job reports: the result object of requirements 002 and its one terminal event. Pure, but for one log line.
import { dollarsFromMicros } from "@renderplane/proto/kernel/units.ts";
import type { CostLine, JsonObject } from "../domain/records.ts";
import type { NewEvent } from "../store/events.ts";
import type { SheetJob } from "../store/sheet.ts";
import type { Context } from "./context.ts";

/** video_id, status, cost, processing_time (seconds), results by stage. */
export const resultOf = (
  job: SheetJob,
  endedAt: Date,
  facts: {
    readonly costs: readonly CostLine[];
    readonly results: readonly { readonly name: string; readonly result: JsonObject }[];
  },
): JsonObject => ({
  video_id: job.id,
  status: job.state,
  cost: dollarsFromMicros(job.spentMicros),
  costs: facts.costs.map((c) => ({ service: c.service, provider: c.provider, amount: dollarsFromMicros(c.micros) })),
  processing_time: (endedAt.getTime() - (job.startedAt ?? endedAt).getTime()) / 1000,
  results: Object.fromEntries(facts.results.map((line) => [line.name, line.result])),
});

export const terminalEvent = (job: SheetJob, result: JsonObject): NewEvent => ({
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
export const overTarget = (ctx: Context, job: SheetJob, result: JsonObject): NewEvent[] => {
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
