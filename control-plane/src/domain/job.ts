// A job's state is derived from its stages, never set on its own: one state machine, one source of truth.
import { isLeased, type JobState, type StageState } from "@renderplane/proto/kernel/stage-state.ts";

/**
 * The customer's word for a set of stages. A job that must end (a stage failed, or a cancel was asked for) keeps
 * `processing` until no host works for it any more: its end is the moment when it can cost nothing more.
 */
export const deriveJobState = (stages: readonly StageState[], hasBegun: boolean): JobState => {
  if (stages.some(isLeased)) return "processing";
  if (stages.every((state) => state === "succeeded")) return "completed";
  if (stages.includes("failed")) return stages.some(isOpen) ? "processing" : "failed";
  if (stages.includes("cancelled")) return stages.some(isOpen) ? "processing" : "cancelled";
  return hasBegun ? "processing" : "queued";
};

const isOpen = (state: StageState): boolean =>
  state === "pending" || state === "ready" || state === "waiting" || state === "blocked" || isLeased(state);

/** 0..1 over the whole job: each stage counts by its time limit, the only size known before it runs. */
export const jobProgress = (
  stages: readonly { readonly state: StageState; readonly weight: number; readonly fraction: number }[],
): number => {
  const total = stages.reduce((sum, stage) => sum + stage.weight, 0);
  if (total === 0) return 0;
  const done = stages.reduce(
    (sum, s) => sum + s.weight * (s.state === "succeeded" ? 1 : isLeased(s.state) ? clamp(s.fraction) : 0),
    0,
  );
  return clamp(done / total);
};

const clamp = (x: number): number => Math.min(1, Math.max(0, Number.isFinite(x) ? x : 0));

/** Requirements 002: after each stage, the share of stages that are done, in percent. */
export const stagePercent = (stages: readonly StageState[]): number =>
  stages.length === 0 ? 0 : (stages.filter((state) => state === "succeeded").length / stages.length) * 100;
