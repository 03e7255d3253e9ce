// Why a job waits or failed: for each stage that waits, every gate and every host with its reason, from the tables that place it.
// Reads only. What it says is what the placer would decide at this moment, not what it decided at its last look.
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { isFinalJob, isLeased, type JobState, type StageState } from "@renderplane/proto/kernel/stage-state.ts";
import { admitHold } from "../domain/budget.ts";
import { createGates, type Gates, type GateView } from "../domain/gates.ts";
import { demandsGpu, type FleetFacts, type HostVerdict, judge, type Need } from "../domain/placement.ts";
import { exactPlaces } from "../domain/queue-order.ts";
import type { JobDetail, StageRow } from "../domain/records.ts";
import { readJobDetail } from "../store/job-detail.ts";
import { readConcurrency } from "../store/queue.ts";
import type { Context } from "./context.ts";
import { readFleet } from "./read-fleet.ts";

export type StageExplanation = {
  readonly stage: string;
  readonly state: StageState;
  readonly since: Date;
  readonly reason: string;
  /** Empty unless it waits for a host. */
  readonly gates: readonly GateView[];
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
  const { direct } = ctx.db;
  const detail = await readJobDetail(direct, jobId);
  if (!detail) throw new RenderplaneError("job_not_found", `there is no job ${jobId}`);
  const { candidates, facts } = await readFleet(ctx, direct);
  const gates = await readGates(ctx);
  const stages = detail.stages.map((stage) => {
    const need = { kind: stage.kind, spec: stage.spec, avoid: stage.avoid };
    const isOpen = stage.state === "ready" || stage.state === "waiting";
    const views = isOpen ? gates.view(gateStageOf(detail, stage)) : [];
    const verdicts = isOpen ? candidates.map((c) => judge(need, c, facts)) : [];
    return {
      stage: stage.name,
      state: stage.state,
      since: stage.startedAt ?? stage.runAt,
      reason: reasonOf(detail, stage, views, verdicts, noteOf(need, facts)),
      gates: views,
      hosts: verdicts,
    };
  });
  return { jobId: detail.job.id, state: detail.job.state, summary: summaryOf(detail, stages), stages };
};

export const readGates = async (ctx: Context): Promise<Gates> => {
  const { concurrency } = ctx.settings;
  const counts = await readConcurrency(ctx.db.direct, [...concurrency.attemptsPerProvider.keys()]);
  return createGates(concurrency, ctx.pipelines, counts);
};

const gateStageOf = ({ job }: JobDetail, stage: StageRow) => ({
  jobId: job.id,
  jobHasBegun: job.state === "processing",
  userId: job.userId,
  pipeline: job.pipeline,
  providers: stage.spec.providers,
});

/** What is not seen in any single host's reason. */
const noteOf = (need: Need, facts: FleetFacts): string =>
  need.spec.resources.gpu !== "required"
    ? ""
    : demandsGpu(need, facts)
      ? " (it needs a GPU)"
      : " (it is meant for a GPU, the fleet has none that works, so any host may take it)";

const reasonOf = (
  detail: JobDetail,
  stage: StageRow,
  gates: readonly GateView[],
  verdicts: readonly HostVerdict[],
  note: string,
): string => {
  switch (stage.state) {
    case "pending":
      return `waits for ${stage.spec.needs.filter((need) => detail.stages.find((s) => s.name === need)?.state !== "succeeded").join(", ")}`;
    case "ready": {
      const hold = admitHold(detail.job, stage.name, stage.estimatedMicros);
      if (!hold.ok) return hold.reason;
      if (stage.runAt.getTime() > Date.now()) return `is offered again at ${stage.runAt.toISOString()}`;
      const closed = gates.find((gate) => gate.verdict === "closed");
      if (closed) return `waits: ${closed.reason}`;
      if (verdicts.length === 0) return "no host is enrolled; add one with: npx renderplane host enroll-command";
      if (verdicts.some((v) => v.verdict === "fits"))
        return detail.position > 1
          ? `stands at ${placeText(detail.position)}${note}`
          : `is placed at the next turn${note}`;
      return `no host can take it now${note}`;
    }
    case "waiting":
      return stage.attempts === 0 && stage.failure === null
        ? `may not begin before ${stage.runAt.toISOString()}`
        : `is tried again at ${stage.runAt.toISOString()}${stage.failure ? `, after: ${stage.failure.message}` : ""}`;
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

const placeText = (position: number): string =>
  position > exactPlaces ? `a place behind ${exactPlaces} in the queue` : `place ${position} in the queue`;

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
