// What a submission would become, without making it: its place, when it would begin and end, what it would cost, and how many hosts
// fit. Writes nothing and takes no share, so an estimate may be asked for as often as one likes. Media files are not looked at:
// they come with the submission.
import { type FieldError, isCode, RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import type { Micros } from "@renderplane/proto/kernel/units.ts";
import { durationsOf, type Outlook, outlookOf } from "../domain/eta.ts";
import { estimateMicros, type Pipeline, type PlannedStage, planStages } from "../domain/pipeline.ts";
import { refusalOf } from "../domain/placement.ts";
import type { Complexity, JobDetail, JobRow } from "../domain/records.ts";
import type { Tx } from "../store/database.ts";
import { countProcessingJobs, countQueuedJobs, placeOf } from "../store/jobs.ts";
import { type LaneHistory, laneHistory } from "../store/queue.ts";
import { peekShare } from "../store/shares.ts";
import type { Context } from "./context.ts";
import { type Fleet, readFleet } from "./read-fleet.ts";
import { checkProviders, parseSubmission, rankIn } from "./submit-job.ts";

export type StageEstimate = {
  readonly stage: string;
  /** Hosts that could take it now, and those that could when nothing ran on them. */
  readonly hostsNow: number;
  readonly hosts: number;
  /** Why the others cannot, by rule. */
  readonly reasons: readonly { readonly rule: string; readonly hosts: number; readonly example: string }[];
};
export type Estimate = {
  readonly pipeline: string;
  readonly complexity: Complexity;
  readonly position: number;
  readonly depth: number;
  readonly depthLimit: number;
  readonly outlook: Outlook;
  readonly cost: { readonly estimate: Micros; readonly low: Micros; readonly high: Micros; readonly limit: Micros };
  readonly costBasis: "history" | "target";
  /** Hosts that could take every stage. */
  readonly hosts: number;
  readonly stages: readonly StageEstimate[];
};
export type EstimateAnswer =
  | { readonly valid: true; readonly estimate: Estimate }
  | { readonly valid: false; readonly errors: readonly FieldError[]; readonly reason: string };

/** Throws unknown_pipeline; every other fault of the body is an answer. */
export const estimateJob = async (ctx: Context, body: unknown): Promise<EstimateAnswer> => {
  const { direct } = ctx.db;
  try {
    const job = parseSubmission(body, ctx.pipelines);
    const pipeline = ctx.pipelines.get(job.pipeline) as Pipeline;
    await checkProviders(direct, pipeline, job.request);
    const history = await laneHistory(direct, job);
    const position = await placeOf(direct, rankIn(pipeline, job, history, await peekShare(direct, job)), "");
    const fleet = await readFleet(ctx, direct);
    const planned = planStages(pipeline, job.request, job.complexity);
    const stages = planned.map((stage) => estimateStage(stage, fleet));
    const hosts = fleet.candidates.filter((c) =>
      planned.every((stage) => refusalOf(needOf(stage), { ...c, held: [] }, fleet.facts) === undefined),
    ).length;
    const { queueDepth } = ctx.settings;
    const depth = await countQueuedJobs(direct, queueDepth);
    const waiting = { state: "queued" as const, startedAt: null, notBefore: job.notBefore ?? null };
    const outlook = await outlookIn(ctx, direct, pipeline, waiting, position, history);
    const isPossible = stages.every((stage) => stage.hosts > 0);
    return {
      valid: true,
      estimate: {
        pipeline: pipeline.name,
        complexity: job.complexity,
        position,
        depth,
        depthLimit: queueDepth,
        // Nobody can say when a host will come that can do it.
        outlook: isPossible ? outlook : { ...outlook, start: null, finish: null },
        cost: {
          ...costOf(pipeline, planned, job.complexity, history),
          limit: job.haltMicros ?? ctx.settings.costLimits.halt,
        },
        costBasis: history ? "history" : "target",
        hosts,
        stages,
      },
    };
  } catch (error) {
    if (
      error instanceof RenderplaneError &&
      (isCode(error, "invalid_request") || isCode(error, "provider_not_configured"))
    )
      return { valid: false, errors: error.fields, reason: error.message };
    throw error;
  }
};

/** When an open job will begin and end; undefined for one that has ended or whose pipeline is gone. */
export const outlookOfJob = async (
  ctx: Context,
  { job, position }: Pick<JobDetail, "job" | "position">,
): Promise<Outlook | undefined> => {
  const pipeline = ctx.pipelines.get(job.pipeline);
  if (!pipeline || (job.state !== "queued" && job.state !== "processing")) return undefined;
  const open = { state: job.state, startedAt: job.startedAt, notBefore: job.notBefore };
  const { direct } = ctx.db;
  return outlookIn(ctx, direct, pipeline, open, position, await laneHistory(direct, job));
};

const outlookIn = async (
  ctx: Context,
  tx: Tx,
  pipeline: Pipeline,
  job: Pick<JobRow, "startedAt" | "notBefore"> & { readonly state: "queued" | "processing" },
  position: number,
  history: LaneHistory | undefined,
): Promise<Outlook> => {
  const { jobs, jobsPerUser } = ctx.settings.concurrency;
  const limit = Math.max(1, Math.min(jobs, jobsPerUser, pipeline.max_running ?? jobs));
  const queue = { ahead: Math.max(0, position - 1), processing: await countProcessingJobs(tx), limit };
  return outlookOf(job, queue, durationsOf(history, pipeline.target.seconds), new Date());
};

const needOf = (stage: PlannedStage) => ({ kind: stage.kind, spec: stage.spec, shape: stage.shape, avoid: [] });

const estimateStage = (stage: PlannedStage, { candidates, facts }: Fleet): StageEstimate => {
  const reasons = new Map<string, { rule: string; hosts: number; example: string }>();
  let [hosts, hostsNow] = [0, 0];
  for (const c of candidates) {
    const now = refusalOf(needOf(stage), c, facts);
    if (now === undefined) hostsNow++;
    else {
      const seen = reasons.get(now.rule) ?? { rule: now.rule, hosts: 0, example: `${c.host.name}: ${now.reason}` };
      reasons.set(now.rule, { ...seen, hosts: seen.hosts + 1 });
    }
    if (refusalOf(needOf(stage), { ...c, held: [] }, facts) === undefined) hosts++;
  }
  return { stage: stage.name, hosts, hostsNow, reasons: [...reasons.values()].sort((a, b) => b.hosts - a.hosts) };
};

const costOf = (
  pipeline: Pipeline,
  stages: readonly PlannedStage[],
  complexity: Complexity,
  history: LaneHistory | undefined,
): { readonly estimate: Micros; readonly low: Micros; readonly high: Micros } => {
  const estimate = estimateMicros(pipeline, complexity);
  const micros = (dollars: number) => BigInt(Math.round(dollars * 1e6));
  if (history) return { estimate, low: micros(history.dollars.low), high: micros(history.dollars.high) };
  // Without history: from what its stages are expected to cost to what the whole is.
  const sum = stages.reduce((total, stage) => total + stage.estimatedMicros, 0n);
  return sum < estimate ? { estimate, low: sum, high: estimate } : { estimate, low: estimate, high: sum };
};
