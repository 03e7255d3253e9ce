// Why a job waits or failed: for each stage that waits, a reason for every host, from the same tables that place it.
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { isFinalJob, isLeased, type JobState, type StageState } from "@renderplane/proto/kernel/stage-state.ts";
import { admitHold } from "../domain/budget.ts";
import { type HostVerdict, judge } from "../domain/placement.ts";
import type { JobDetail, StageRow } from "../domain/records.ts";
import { listHosts, liveAllocations } from "../store/hosts.ts";
import { readJobDetail } from "../store/job-detail.ts";
import type { Context } from "./context.ts";

export type StageExplanation = {
  readonly stage: string;
  readonly state: StageState;
  readonly since: Date;
  readonly reason: string;
  readonly hosts: readonly HostVerdict[];
};
export type Explanation = {
  readonly jobId: string;
  readonly state: JobState;
  readonly summary: string;
  readonly stages: readonly StageExplanation[];
};

/** Throws job_not_found. */
export const explainJob = async (ctx: Context, jobId: string): Promise<Explanation> => {
  const detail = await readJobDetail(ctx.db.direct, jobId);
  if (!detail) throw new RenderplaneError("job_not_found", `there is no job ${jobId}`);
  const hosts = await listHosts(ctx.db.direct);
  const live = await liveAllocations(ctx.db.direct);
  const candidates = hosts.map((host) => ({
    host,
    held: live.filter((a) => a.hostId === host.id).map((a) => a.allocation),
  }));
  const stages = detail.stages.map((stage) => {
    const need = { kind: stage.kind, spec: stage.spec, avoid: stage.avoid };
    const verdicts = stage.state === "ready" || stage.state === "waiting" ? candidates.map((c) => judge(need, c)) : [];
    return {
      stage: stage.name,
      state: stage.state,
      since: stage.startedAt ?? stage.runAt,
      reason: reasonOf(detail, stage, verdicts),
      hosts: verdicts,
    };
  });
  return { jobId: detail.job.id, state: detail.job.state, summary: summaryOf(detail, stages), stages };
};

const reasonOf = (detail: JobDetail, stage: StageRow, verdicts: readonly HostVerdict[]): string => {
  switch (stage.state) {
    case "pending":
      return `waits for ${stage.spec.needs.filter((need) => detail.stages.find((s) => s.name === need)?.state !== "succeeded").join(", ")}`;
    case "ready": {
      const hold = admitHold(detail.job, stage.name, stage.estimatedMicros);
      if (!hold.ok) return hold.reason;
      if (stage.runAt.getTime() > Date.now()) return `is offered again at ${stage.runAt.toISOString()}`;
      if (verdicts.length === 0) return "no host is enrolled; add one with: npx renderplane host enroll-command";
      if (verdicts.some((v) => v.verdict === "fits")) return "is placed at the next turn";
      return "no host can take it now";
    }
    case "waiting":
      return `is tried again at ${stage.runAt.toISOString()}${stage.failure ? `, after: ${stage.failure.message}` : ""}`;
    case "failed":
      return stage.failure?.message ?? "failed";
    case "cancelling":
      return "its host is stopping it";
    case "skipped":
      return "was not begun: a stage before it failed";
    default:
      return isLeased(stage.state) ? `is with ${hostOf(detail, stage)}` : stage.state;
  }
};

const hostOf = (detail: JobDetail, stage: StageRow): string => {
  const attempt = detail.attempts.findLast((a) => a.stageId === stage.id);
  return (attempt && detail.hostNames.get(attempt.hostId)) ?? "a host";
};

const summaryOf = ({ job, stages }: JobDetail, explained: readonly StageExplanation[]): string => {
  if (isFinalJob(job.state))
    return job.failure ? `${job.state} at ${job.failure.stage ?? "a stage"}: ${job.failure.message}` : job.state;
  const running = stages.filter((s) => isLeased(s.state)).map((s) => s.name);
  if (running.length > 0) return `working on ${running.join(", ")}`;
  const first = explained.find((s) => s.state === "ready" || s.state === "waiting");
  return first ? `${first.stage} ${first.reason}` : "waiting";
};
