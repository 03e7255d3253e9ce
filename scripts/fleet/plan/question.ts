// What the model is asked and what it answers, and how arrivals spread over a day. Types and two pure functions; model.ts runs it.
import type { PlannedStage } from "../../../control-plane/src/domain/pipeline.ts";
import type { Complexity } from "../../../control-plane/src/domain/records.ts";
import type { Histogram } from "../histogram.ts";
import type { Scenario } from "../scenario.ts";

export type PlanInput = {
  readonly scenario: Scenario;
  /** The stages of a job of this complexity. */
  readonly stagesOf: (complexity: Complexity) => readonly PlannedStage[];
  readonly jobs: number;
  /** Mean jobs a second. */
  readonly rate: number;
  readonly durationMs: number;
  /** day: quiet at night, busiest in the evening, with the same mean; flat: the same at all times. */
  readonly shape: "flat" | "day";
  /** A job that takes longer than this has missed its deadline. */
  readonly deadlineMs: number;
  readonly maxRunningJobs: number;
  readonly heartbeatMs: number;
};

export type PlanOutcome = {
  readonly jobs: {
    readonly submitted: number;
    readonly completed: number;
    readonly failed: number;
    readonly late: number;
  };
  readonly stages: { readonly succeeded: number; readonly failed: number; readonly lost: number };
  /** Seconds. */
  readonly jobWait: Histogram;
  readonly stageWait: Histogram;
  readonly jobTime: Histogram;
  readonly longestQueue: number;
  /** Core and GPU milliseconds that attempts held, and what the hosts had. */
  readonly coreMs: number;
  readonly gpuMs: number;
  readonly coreMsThere: number;
  readonly gpuMsThere: number;
  readonly endMs: number;
  readonly events: number;
};

const dayMs = 86_400_000;
const swing = 0.6;
export const peak = (shape: "flat" | "day"): number => (shape === "flat" ? 1 : 1 + swing);
/** Mean 1 over a day; busiest at 20:00. */
export const shapeAt = (shape: "flat" | "day", atMs: number): number =>
  shape === "flat" ? 1 : 1 + swing * Math.cos(((atMs / dayMs) * 24 - 20) * ((2 * Math.PI) / 24));
