// Fills the job that clients see from the rows of the store: progress, times, money in dollars and the attempts of each stage.
// It derives nothing that domain/ decides; the one sentence for producers is status-text.ts.
// Invariant: pure; `now` comes in, so a test and an answer agree to the millisecond.

import type { z } from "@hono/zod-openapi";
import { isFinalJob, isLeased } from "@renderplane/proto/kernel/stage-state.ts";
import { dollarsFromMicros } from "@renderplane/proto/kernel/units.ts";
import type { Outlook, TimeRange } from "../domain/eta.ts";
import { jobProgress } from "../domain/job.ts";
import { type RankParts, rankParts } from "../domain/queue-order.ts";
import type { AttemptRow, FailureRecord, JobDetail, JobRow, StageRow } from "../domain/records.ts";
import type {
  etaSchema,
  explanationSchema,
  failureSchema,
  jobItemSchema,
  jobSchema,
  placeSchema,
  stageSchema,
  submittedSchema,
} from "./job-schema.ts";
import type { Explanation, Submitted } from "./operations.ts";
import { jobText, type LiveStage } from "./status-text.ts";

export type JobJson = z.infer<typeof jobSchema>;
export type JobItemJson = z.infer<typeof jobItemSchema>;
type StageJson = z.infer<typeof stageSchema>;

/** `outlook`: read for the view of one job; lists leave it out. */
export const jobJson = (detail: JobDetail, now: Date, outlook?: Outlook): JobJson => {
  const attemptsOf = Map.groupBy(detail.attempts, (attempt) => attempt.stageId);
  const stages = detail.stages.map((stage) => stageJson(stage, attemptsOf.get(stage.id) ?? [], detail.hostNames, now));
  const { job } = detail;
  return {
    ...rowJson(job, now),
    status_text: jobText(job, detail.position, stages.map(live)),
    progress: progressOf(detail.stages, stages),
    eta_seconds: isFinalJob(job.state) ? null : longest(stages.map((stage) => stage.eta_seconds)),
    position: detail.position,
    eta: outlook ? etaJson(outlook) : null,
    costs: detail.costs.map((c) => ({ service: c.service, provider: c.provider, amount: dollarsFromMicros(c.micros) })),
    stages,
  };
};

/** A job of a list. Without its detail (it waits or has ended) only its own row speaks. */
export const jobItemJson = (job: JobRow, detail: JobDetail | undefined, now: Date): JobItemJson => {
  if (detail) {
    const { stages: _stages, ...item } = jobJson(detail, now);
    return item;
  }
  return {
    ...rowJson(job, now),
    status_text: jobText(job, -1, []),
    progress: job.state === "completed" ? 1 : job.state === "queued" ? 0 : null,
    eta_seconds: null,
    position: -1,
    eta: null,
    costs: [],
  };
};

const rowJson = (job: JobRow, now: Date) => ({
  id: job.id,
  external_id: job.externalId,
  pipeline: job.pipeline,
  pipeline_version: job.pipelineVersion,
  user_id: job.userId,
  channel_id: job.channelId,
  priority: job.priority,
  complexity: job.complexity,
  state: job.state,
  place: placeJson(rankParts(job)),
  not_before: timeText(job.notBefore),
  deadline: timeText(job.deadlineAt),
  on_deadline: job.onDeadline,
  created_at: job.createdAt.toISOString(),
  started_at: timeText(job.startedAt),
  ended_at: timeText(job.endedAt),
  elapsed_seconds: elapsed(job.startedAt, job.endedAt, now),
  estimated_cost: dollarsFromMicros(job.estimatedMicros),
  held_cost: dollarsFromMicros(job.heldMicros),
  actual_cost: dollarsFromMicros(job.spentMicros),
  failure: job.failure ? failureJson(job.failure) : null,
  result: job.result === null ? null : { ...job.result },
  links: jobLinks(job.id),
});

export const placeJson = (parts: RankParts): z.infer<typeof placeSchema> => ({
  rank: Number(parts.rank),
  since: parts.base.toISOString(),
  share_seconds: parts.shareMs / 1000,
  priority_seconds: parts.priorityMs / 1000,
  premium_seconds: parts.premiumMs / 1000,
});

export const etaJson = (outlook: Outlook): z.infer<typeof etaSchema> => ({
  start: outlook.start && rangeJson(outlook.start),
  finish: outlook.finish && rangeJson(outlook.finish),
  basis: outlook.basis,
});
const rangeJson = (range: TimeRange) => ({
  earliest: range.earliest.toISOString(),
  latest: range.latest.toISOString(),
});

export const jobLinks = (id: string): Record<string, string> => ({
  self: `/api/v1/jobs/${id}`,
  explain: `/api/v1/jobs/${id}/explain`,
  artifacts: `/api/v1/jobs/${id}/artifacts`,
  cancel: `/api/v1/jobs/${id}/cancel`,
  events: `/api/v1/events?topics=job:${id}`,
});

const stageJson = (
  stage: StageRow,
  attempts: readonly AttemptRow[],
  hosts: ReadonlyMap<string, string>,
  now: Date,
): StageJson => {
  const running = isLeased(stage.state) ? attempts.find((attempt) => attempt.state !== "ended") : undefined;
  return {
    name: stage.name,
    kind: stage.kind,
    state: stage.state,
    progress: stage.state === "succeeded" ? 1 : fraction(running?.progress ?? 0),
    step: running?.step ?? "",
    eta_seconds: running?.etaMs == null ? null : Number(running.etaMs) / 1000,
    tries: stage.tries,
    retries: stage.spec.retries,
    estimated_cost: dollarsFromMicros(stage.estimatedMicros),
    actual_cost: dollarsFromMicros(attempts.reduce((sum, attempt) => sum + attempt.chargeMicros, 0n)),
    started_at: timeText(stage.startedAt),
    ended_at: timeText(stage.endedAt),
    elapsed_seconds: elapsed(stage.startedAt, stage.endedAt, now),
    waiting_reason: stage.waitingReason === null ? null : { ...stage.waitingReason },
    failure: stage.failure ? failureJson(stage.failure) : null,
    result: stage.result === null ? null : { ...stage.result },
    attempts: attempts.map((attempt) => ({
      id: attempt.id,
      number: attempt.number,
      host_id: attempt.hostId,
      host: hosts.get(attempt.hostId) ?? attempt.hostId,
      state: attempt.state,
      outcome: attempt.outcome,
      fence: Number(attempt.fence),
      progress: fraction(attempt.progress),
      step: attempt.step,
      started_at: timeText(attempt.startedAt),
      ended_at: timeText(attempt.endedAt),
      charge: dollarsFromMicros(attempt.chargeMicros),
      failure: attempt.failure ? failureJson(attempt.failure) : null,
      verdict: attempt.verdict === null ? null : { ...attempt.verdict },
    })),
  };
};

const failureJson = (failure: FailureRecord): z.infer<typeof failureSchema> => ({
  class: failure.failureClass,
  severity: failure.severity,
  stage: failure.stage ?? null,
  message: failure.message,
  evidence: failure.evidence ?? null,
  exit: failure.exit ?? null,
});

const progressOf = (rows: readonly StageRow[], stages: readonly StageJson[]): number =>
  jobProgress(
    rows.map((row, i) => ({ state: row.state, weight: row.spec.timeoutMs, fraction: stages[i]?.progress ?? 0 })),
  );

const live = (stage: StageJson): LiveStage => ({
  name: stage.name,
  kind: stage.kind,
  state: stage.state,
  progress: stage.progress,
  etaSeconds: stage.eta_seconds,
});

export const submittedJson = (submitted: Submitted): z.infer<typeof submittedSchema> => ({
  id: submitted.jobId,
  state: "queued",
  position: submitted.position,
  estimated_cost: dollarsFromMicros(submitted.estimatedMicros),
  estimated_seconds: submitted.estimatedSeconds,
  links: jobLinks(submitted.jobId),
});

export const explanationJson = (explanation: Explanation): z.infer<typeof explanationSchema> => ({
  job_id: explanation.jobId,
  state: explanation.state,
  summary: explanation.summary,
  stages: explanation.stages.map((stage) => ({
    stage: stage.stage,
    state: stage.state,
    since: stage.since.toISOString(),
    reason: stage.reason,
    gates: stage.gates.map((gate) => ({ ...gate })),
    hosts: stage.hosts.map((h) => ({
      host_id: h.hostId,
      host: h.host,
      verdict: h.verdict,
      rule: h.rule,
      reason: h.reason,
    })),
  })),
});

export const timeText = (time: Date | null): string | null => time?.toISOString() ?? null;
const fraction = (x: number): number => Math.min(1, Math.max(0, Number.isFinite(x) ? x : 0));
/** To the millisecond; never negative, because the database's clock and ours are two clocks. */
const elapsed = (from: Date | null, to: Date | null, now: Date): number | null =>
  from === null ? null : Math.max(0, (to ?? now).getTime() - from.getTime()) / 1000;
const longest = (etas: readonly (number | null)[]): number | null => {
  const known = etas.filter((eta) => eta !== null);
  return known.length === 0 ? null : Math.max(...known);
};
