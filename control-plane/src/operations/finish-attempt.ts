// The one door through which every attempt ends: success, failure, refusal, expiry, cancellation, lost lease.
// One transaction settles the money, decides what follows, moves the stage, publishes the outputs and ends the job if it was
// the last. The fence and the attempt's state guard it: a second call, from anywhere, changes nothing.
import { type FailureClass, factsOf, isFailureClass } from "@renderplane/proto/kernel/failure.ts";
import { artifactNamePattern, sha256Pattern } from "@renderplane/proto/kernel/limits.ts";
import type { AttemptOutcome } from "@renderplane/proto/kernel/stage-state.ts";
import { dollarsFromMicros } from "@renderplane/proto/kernel/units.ts";
import { stagePercent } from "../domain/job.ts";
import type { UsageRecord } from "../domain/pricing.ts";
import type { AttemptRow, FailureRecord, JobRow, JsonObject, StageRow } from "../domain/records.ts";
import { countsAsTry, type RecoveryVerdict, recover } from "../domain/recovery.ts";
import {
  endAttempt,
  hostsOfJob,
  isStillOverdue,
  lockAttempt,
  readAttempt,
  uncountedInARow,
} from "../store/attempts.ts";
import type { Tx } from "../store/database.ts";
import { appendEvents } from "../store/events.ts";
import { insertFiles, recordArtifacts } from "../store/files.ts";
import { lockJob, markJobFailure } from "../store/jobs.ts";
import { listStages, lockStage, meetNeed, moveStage } from "../store/stages.ts";
import { advanceJob } from "./advance-job.ts";
import type { Context } from "./context.ts";
import { settle } from "./settle.ts";
import type { Upload } from "./submit-job.ts";

export type Finish = {
  readonly attemptId: string;
  readonly fence: bigint;
  /** null: the control plane itself ends it (reaper, reconciliation). */
  readonly hostId: string | null;
  readonly outcome: AttemptOutcome;
  readonly result: JsonObject;
  readonly outputs: readonly Upload[];
  readonly failure: FailureRecord | null;
  readonly usage: readonly UsageRecord[];
  /** Only while its offer or lease is still out of time: what the reaper read may be renewed or accepted by now. */
  readonly ifOverdue?: true;
};

/** `applied` is false when the fence is stale or the attempt has ended otherwise: the outputs do not count. */
export const finishAttempt = async (ctx: Context, finish: Finish): Promise<{ applied: boolean }> => {
  const r = await verifyOutputs(ctx, finish);
  const done = await ctx.db.transaction(async (tx) => {
    const known = await readAttempt(tx, r.attemptId);
    if (!known || known.fence !== r.fence || (r.hostId !== null && known.hostId !== r.hostId))
      return { applied: false, hosts: [] };
    const job = await lockJob(tx, known.jobId);
    const stage = job && (await lockStage(tx, known.stageId));
    const attempt = stage && (await lockAttempt(tx, r.attemptId));
    if (!job || !stage || !attempt) return { applied: false, hosts: [] };
    if (attempt.state === "ended") return { applied: attempt.outcome === r.outcome, hosts: [] };
    if (r.ifOverdue && !(await isStillOverdue(tx, attempt.id, r.outcome, ctx.timings.graceMs)))
      return { applied: false, hosts: [] };
    return apply(ctx, tx, r, job, stage, attempt);
  });
  ctx.bus.ring("ready");
  ctx.bus.ring("events");
  for (const host of done.hosts) ctx.bus.ring(`host:${host}`);
  return { applied: done.applied };
};

const apply = async (ctx: Context, tx: Tx, r: Finish, job: JobRow, stage: StageRow, attempt: AttemptRow) => {
  const isCancelling = stage.state === "cancelling";
  // A success that arrives while the stop is on its way is a cancelled attempt: its outputs are not published.
  const outcome: AttemptOutcome = isCancelling && r.outcome === "succeeded" ? "cancelled" : r.outcome;
  const failure = outcome === "succeeded" ? null : failureOf(r, stage);
  const settled = await settle(ctx, tx, { job, stage, attempt, outcome, usage: r.usage });
  const tries = stage.tries + (countsAsTry(outcome) ? 1 : 0);
  const verdict =
    outcome === "succeeded"
      ? undefined
      : recover({
          outcome,
          failureClass: failure?.failureClass ?? "",
          tries,
          retries: stage.spec.retries,
          backoffMs: stage.spec.backoffMs,
          isCancelling,
          uncounted: await uncountedInARow(tx, stage.id),
        });
  await endAttempt(tx, {
    attemptId: attempt.id,
    outcome,
    chargeMicros: settled.chargedMicros,
    failure,
    verdict: verdict ? { ...verdict, tries, retries: stage.spec.retries } : { rule: "succeeded" },
    usage: r.usage,
  });
  if (verdict === undefined) await succeed(tx, r, job, stage, attempt, dollarsFromMicros(settled.chargedMicros));
  else await notSucceed(tx, verdict, job, stage, attempt, failure, outcome);
  const isFailed = verdict?.action === "fail";
  const hadSiblings = isFailed ? await hostsOfJob(tx, job.id) : [];
  await advanceJob(ctx, tx, { ...settled.job, failure: settled.job.failure ?? (isFailed ? failure : null) });
  return { applied: true, hosts: hadSiblings };
};

const succeed = async (
  tx: Tx,
  r: Finish,
  job: JobRow,
  stage: StageRow,
  attempt: AttemptRow,
  cost: number,
): Promise<void> => {
  await moveStage(tx, stage.id, "succeed", {
    outputFence: attempt.fence,
    result: { ...r.result, cost },
    countTry: true,
  });
  await recordArtifacts(tx, r.outputs);
  await insertFiles(tx, job.id, stage.name, attempt.fence, r.outputs);
  const ready = await meetNeed(tx, job.id, stage.name);
  const progress = stagePercent((await listStages(tx, job.id)).map((s) => s.state));
  await appendEvents(tx, [
    {
      type: "stage.completed",
      jobId: job.id,
      hostId: attempt.hostId,
      body: { stage: stage.name, attempt: attempt.id, cost, progress },
    },
    {
      type: "progress",
      jobId: job.id,
      body: { video_id: job.id, stage: stage.name, progress, timestamp: new Date().toISOString() },
    },
    ...ready.map((name) => ({ type: "stage.ready", jobId: job.id, body: { stage: name } })),
  ]);
};

const notSucceed = async (
  tx: Tx,
  verdict: RecoveryVerdict,
  job: JobRow,
  stage: StageRow,
  attempt: AttemptRow,
  failure: FailureRecord | null,
  outcome: AttemptOutcome,
): Promise<void> => {
  const body = {
    stage: stage.name,
    attempt: attempt.id,
    outcome,
    failure: failure as unknown as JsonObject,
    verdict: { ...verdict },
  };
  const about = { jobId: job.id, hostId: attempt.hostId, body };
  const reason = failure?.message ?? outcome;
  switch (verdict.action) {
    case "cancelled":
      await moveStage(tx, stage.id, "stopped");
      return appendEvents(tx, [{ type: "stage.cancelled", ...about }]);
    case "requeue":
    case "retry":
      await moveStage(tx, stage.id, verdict.action === "retry" ? "retry" : "return", {
        delayMs: verdict.delayMs,
        countTry: countsAsTry(outcome),
        ...(failure ? { failure } : {}),
        ...(verdict.avoidHost ? { avoid: { hostId: attempt.hostId, reason } } : {}),
      });
      return appendEvents(tx, [{ type: verdict.action === "retry" ? "stage.retrying" : "stage.returned", ...about }]);
    case "fail": {
      const recorded = failure ?? unknownFailure(stage, `the attempt ended as ${outcome}`);
      await moveStage(tx, stage.id, "fail", { failure: recorded, countTry: countsAsTry(outcome) });
      await markJobFailure(tx, job.id, recorded);
      return appendEvents(tx, [{ type: "stage.failed", ...about }]);
    }
  }
};

const failureOf = (r: Finish, stage: StageRow): FailureRecord | null => {
  if (r.failure) {
    const failureClass: FailureClass = isFailureClass(r.failure.failureClass) ? r.failure.failureClass : "unknown";
    return { ...r.failure, failureClass, severity: factsOf(failureClass).severity, stage: stage.name };
  }
  if (r.outcome === "lost")
    return {
      failureClass: "host_lost",
      severity: factsOf("host_lost").severity,
      stage: stage.name,
      message: "the host stopped answering; its lease ran out",
    };
  return r.outcome === "failed" ? unknownFailure(stage, "the attempt failed without saying why") : null;
};
const unknownFailure = (stage: StageRow, message: string): FailureRecord => ({
  failureClass: "unknown",
  severity: factsOf("unknown").severity,
  stage: stage.name,
  message,
});

/** A success counts only when every output is stored whole; otherwise it is a failed transfer and is tried again. */
const verifyOutputs = async (ctx: Context, r: Finish): Promise<Finish> => {
  if (r.outcome !== "succeeded") return r;
  for (const output of r.outputs) {
    const isNamed = artifactNamePattern.test(output.name) && sha256Pattern.test(output.sha256);
    const size = isNamed ? await ctx.artifacts.size(output.sha256) : undefined;
    if (size === undefined || size !== output.sizeBytes)
      return {
        ...r,
        outcome: "failed",
        failure: {
          failureClass: isNamed ? "transfer_failed" : "agent_bug",
          severity: factsOf("transfer_failed").severity,
          message: isNamed
            ? `output ${output.name} is not stored whole: expected ${output.sizeBytes} bytes, the store has ${size ?? "none"}`
            : `output ${JSON.stringify(output.name)} has a name or checksum that is not allowed`,
        },
      };
  }
  return r;
};
