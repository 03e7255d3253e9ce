// Which event moves which metric: one row an event type, nothing else counts work. The replica that publishes an event feeds
// it in here, so the sum over replicas counts each event once. Names are those of the requirements.
// Invariant: every child that can ever exist is there with 0 from the start, or `increase()` misses the first one.
import { failureClasses, isFailureClass } from "@renderplane/proto/kernel/failure.ts";
import { Counter, Histogram, type Registry } from "prom-client";
import type { EventRow, Json, JsonObject } from "../domain/records.ts";

const complexities = ["simple", "complex", "premium"] as const;
const thresholdLevels = ["warning", "critical", "halt"] as const;
const finalStates = ["completed", "failed", "cancelled"] as const;
/** Stages and words of an older or newer version: counted, without growing the set of labels. */
const other = "other";

export type EventMetrics = { readonly observe: (event: EventRow) => void };

export const createEventMetrics = (registry: Registry, stages: readonly string[]): EventMetrics => {
  const registers = [registry];
  const stageNames = new Set([...stages, other]);
  const videos = new Counter({
    name: "pipeline_videos_processed_total",
    help: "Jobs that ended",
    labelNames: ["status", "complexity"] as const,
    registers,
  });
  const enqueued = new Counter({
    name: "pipeline_videos_enqueued_total",
    help: "Jobs that were taken into the queue",
    labelNames: ["complexity"] as const,
    registers,
  });
  const missed = new Counter({
    name: "pipeline_deadlines_missed_total",
    help: "Jobs whose deadline passed before they ended",
    registers,
  });
  const seconds = new Histogram({
    name: "pipeline_video_processing_seconds",
    help: "From start to end of completed jobs",
    buckets: [60, 120, 180, 300, 450, 600, 900, 1200],
    registers,
  });
  const dollars = new Histogram({
    name: "pipeline_video_cost_dollars",
    help: "Cost of completed jobs",
    buckets: [0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 5],
    registers,
  });
  const stageRuns = new Counter({
    name: "pipeline_stage_total",
    help: "Attempts of stages that counted, by how they ended",
    labelNames: ["stage", "status"] as const,
    registers,
  });
  const stageErrors = new Counter({
    name: "pipeline_stage_errors_total",
    help: "Failures of attempts by class",
    labelNames: ["stage", "error_type", "severity"] as const,
    registers,
  });
  const breaches = new Counter({
    name: "pipeline_cost_threshold_breaches_total",
    help: "Jobs whose cost crossed a line",
    labelNames: ["threshold_level"] as const,
    registers,
  });

  for (const complexity of [...complexities, other]) enqueued.inc({ complexity }, 0);
  for (const status of finalStates)
    for (const complexity of [...complexities, other]) videos.inc({ status, complexity }, 0);
  for (const threshold_level of thresholdLevels) breaches.inc({ threshold_level }, 0);
  for (const stage of stageNames) {
    for (const status of ["success", "failure"]) stageRuns.inc({ stage, status }, 0);
    for (const [error_type, { severity }] of Object.entries(failureClasses))
      stageErrors.inc({ stage, error_type, severity }, 0);
  }

  const stageOf = (body: JsonObject): string => {
    const name = text(body.stage);
    return stageNames.has(name) ? name : other;
  };
  const countError = (body: JsonObject) => {
    const name = isObject(body.failure) ? text(body.failure.failureClass) : "";
    const error_type = isFailureClass(name) ? name : "unknown";
    stageErrors.inc({ stage: stageOf(body), error_type, severity: failureClasses[error_type].severity });
  };
  const ended = (status: (typeof finalStates)[number]) => (body: JsonObject) => {
    videos.inc({ status, complexity: complexityOf(body) });
    if (status !== "completed") return;
    if (typeof body.processing_time === "number") seconds.observe(body.processing_time);
    if (typeof body.cost === "number") dollars.observe(body.cost);
  };
  const failed = (body: JsonObject) => {
    stageRuns.inc({ stage: stageOf(body), status: "failure" });
    countError(body);
  };

  const complexityOf = (body: JsonObject) => complexities.find((word) => word === body.complexity) ?? other;

  const table: { readonly [type: string]: (body: JsonObject) => void } = {
    "job.queued": (body) => enqueued.inc({ complexity: complexityOf(body) }),
    "job.deadline_missed": () => missed.inc(),
    "job.completed": ended("completed"),
    "job.failed": ended("failed"),
    "job.cancelled": ended("cancelled"),
    "stage.completed": (body) => stageRuns.inc({ stage: stageOf(body), status: "success" }),
    "stage.failed": failed,
    "stage.retrying": failed,
    "cost.threshold": (body) => {
      const level = thresholdLevels.find((word) => word === body.level);
      if (level) breaches.inc({ threshold_level: level });
    },
  };
  return { observe: (event) => table[event.type]?.(event.body) };
};

const text = (value: Json | undefined): string => (typeof value === "string" ? value : "");
const isObject = (value: Json | undefined): value is JsonObject =>
  typeof value === "object" && value !== null && !Array.isArray(value);
