// The one door through which every attempt ends: success, failure, refusal, expiry, cancellation, lost lease.
// One transaction settles the money, decides what follows, moves the stages, publishes the outputs and ends the jobs whose last it
// was, for one attempt or for a hundred in as many statements. The fence and the attempt's state guard it: a second call, from
// anywhere, changes nothing.
import { type FailureClass, factsOf, isFailureClass } from "@renderplane/proto/kernel/failure.ts";
import { artifactNamePattern, sha256Pattern } from "@renderplane/proto/kernel/limits.ts";
import type { AttemptOutcome } from "@renderplane/proto/kernel/stage-state.ts";
import { dollarsFromMicros } from "@renderplane/proto/kernel/units.ts";
import { stagePercent } from "../domain/job.ts";
import type { UsageRecord } from "../domain/pricing.ts";
import type { FailureRecord, JsonObject } from "../domain/records.ts";
import { countsAsTry, type RecoveryVerdict, recover } from "../domain/recovery.ts";
import { hostsOfJobs } from "../store/attempts.ts";
import type { Tx } from "../store/database.ts";
import { insertFiles, recordArtifacts } from "../store/files.ts";
import { lockJobsOfAttempts, lockSheetAttempts, type SheetAttempt, type SheetStage } from "../store/sheet.ts";
import type { Context } from "./context.ts";
import { type JobSheet, openJobSheet } from "./job-sheet.ts";
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
/**
 * `applied` is true when the attempt ended as was asked, now or before. False: the fence is stale, or it ended otherwise (a success of
 * a cancelled stage, or one whose outputs are not stored whole): the outputs do not count. A repetition is answered the same.
 */
export type Finished = { readonly applied: boolean };

export const finishAttempt = async (ctx: Context, finish: Finish): Promise<Finished> =>
  (await finishAttempts(ctx, [finish]))[0] ?? { applied: false };

/** In one transaction; one answer each, in their order. Throws when none could be applied (the database is away). */
export const finishAttempts = async (ctx: Context, finishes: readonly Finish[]): Promise<readonly Finished[]> => {
  const ends = await Promise.all(finishes.map((finish) => verifyOutputs(ctx, finish)));
  const asked = finishes.map((finish) => finish.outcome);
  const done = await ctx.db.transaction((tx) => finishIn(ctx, tx, ends, asked));
  ctx.bus.ring("ready");
  ctx.bus.ring("events");
  for (const host of done.hosts) ctx.bus.ring(`host:${host}`);
  return done.answers;
};

const finishIn = async (
  ctx: Context,
  tx: Tx,
  ends: readonly Finish[],
  asked: readonly AttemptOutcome[],
): Promise<{ answers: Finished[]; hosts: readonly string[] }> => {
  const ids = ends.map((r) => r.attemptId);
  const sheet = await openJobSheet(ctx, tx, await lockJobsOfAttempts(tx, ids));
  const { leaseMs, graceMs } = ctx.timings;
  const countUncounted = ends.some((r) => r.outcome !== "succeeded");
  const attempts = new Map(
    (await lockSheetAttempts(tx, ids, { at: sheet.at, leaseMs, graceMs, countUncounted })).map((attempt) => [
      attempt.id,
      attempt,
    ]),
  );
  const published: { readonly finish: Finish; readonly attempt: SheetAttempt; readonly stage: SheetStage }[] = [];
  const answers = ends.map((r, i): Finished => {
    const attempt = attempts.get(r.attemptId);
    const stage = attempt && sheet.stage(attempt.stageId);
    if (!attempt || !stage || attempt.fence !== r.fence || (r.hostId !== null && attempt.hostId !== r.hostId))
      return { applied: false };
    if (attempt.state === "ended") return { applied: attempt.outcome === asked[i] };
    if (r.ifOverdue && attempt.overdueAs !== r.outcome) return { applied: false };
    const outcome = apply(ctx, sheet, r, stage, attempt);
    if (outcome === "succeeded") published.push({ finish: r, attempt, stage });
    // The same end twice in one batch is answered like a repetition.
    attempts.set(attempt.id, { ...attempt, state: "ended", outcome });
    return { applied: outcome === asked[i] };
  });
  await recordArtifacts(
    tx,
    published.flatMap(({ finish }) => finish.outputs),
  );
  await insertFiles(
    tx,
    published.flatMap(({ finish, attempt, stage }) =>
      finish.outputs.map((file) => ({ ...file, jobId: attempt.jobId, stage: stage.name, fence: attempt.fence })),
    ),
  );
  await sheet.write();
  return { answers, hosts: sheet.stopping.size === 0 ? [] : await hostsOfJobs(tx, [...sheet.stopping]) };
};

/** Answers how the attempt ended. */
const apply = (ctx: Context, sheet: JobSheet, r: Finish, stage: SheetStage, attempt: SheetAttempt): AttemptOutcome => {
  const isCancelling = stage.state === "cancelling";
  // A success that arrives while the stop is on its way is a cancelled attempt: its outputs are not published.
  const outcome: AttemptOutcome = isCancelling && r.outcome === "succeeded" ? "cancelled" : r.outcome;
  const failure = outcome === "succeeded" ? null : failureOf(r, stage);
  const chargedMicros = settle(ctx, sheet, { stage, attempt, outcome, usage: r.usage });
  const tries = stage.tries + (countsAsTry(outcome) ? 1 : 0);
  const verdict =
    outcome === "succeeded"
      ? undefined
      : recover({
          outcome,
          failureClass: failure?.failureClass ?? "",
          tries,
          retries: stage.retries,
          backoffMs: stage.backoffMs,
          isCancelling,
          wasSent: attempt.wasSent,
          uncounted: attempt.uncounted,
        });
  sheet.endAttempt({
    id: attempt.id,
    outcome,
    chargeMicros: chargedMicros,
    failure,
    verdict: verdict ? { ...verdict, tries, retries: stage.retries } : { rule: "succeeded" },
    usage: r.usage,
  });
  if (verdict === undefined) succeed(sheet, r, stage, attempt, dollarsFromMicros(chargedMicros));
  else notSucceed(sheet, verdict, stage, attempt, failure, outcome);
  sheet.advance(attempt.jobId);
  return outcome;
};

const succeed = (sheet: JobSheet, r: Finish, stage: SheetStage, attempt: SheetAttempt, cost: number): void => {
  const { jobId, hostId } = attempt;
  sheet.move(stage.id, "succeed", { outputFence: attempt.fence, result: { ...r.result, cost }, countTry: true });
  const ready = sheet.meetNeed(jobId, stage.name);
  const progress = stagePercent(sheet.job(jobId)?.stages.map((s) => s.state) ?? []);
  sheet.addEvents([
    { type: "stage.completed", jobId, hostId, body: { stage: stage.name, attempt: attempt.id, cost, progress } },
    {
      type: "progress",
      jobId,
      body: { video_id: jobId, stage: stage.name, progress, timestamp: sheet.now.toISOString() },
    },
    ...ready.map((name) => ({ type: "stage.ready", jobId, body: { stage: name } })),
  ]);
};

const notSucceed = (
  sheet: JobSheet,
  verdict: RecoveryVerdict,
  stage: SheetStage,
  attempt: SheetAttempt,
  failure: FailureRecord | null,
  outcome: AttemptOutcome,
): void => {
  const body = {
    stage: stage.name,
    attempt: attempt.id,
    outcome,
    failure: failure as unknown as JsonObject,
    verdict: { ...verdict },
  };
  const about = { jobId: attempt.jobId, hostId: attempt.hostId, body };
  const reason = failure?.message ?? outcome;
  switch (verdict.action) {
    case "cancelled":
      sheet.move(stage.id, "stopped");
      sheet.addEvents([{ type: "stage.cancelled", ...about }]);
      return;
    case "requeue":
    case "retry":
      sheet.move(stage.id, verdict.action === "retry" ? "retry" : "return", {
        delayMs: verdict.delayMs,
        countTry: countsAsTry(outcome),
        ...(failure ? { failure } : {}),
        ...(verdict.avoidHost ? { avoid: { hostId: attempt.hostId, reason } } : {}),
      });
      sheet.addEvents([{ type: verdict.action === "retry" ? "stage.retrying" : "stage.returned", ...about }]);
      return;
    case "fail": {
      const recorded = failure ?? unknownFailure(stage, `the attempt ended as ${outcome}`);
      sheet.move(stage.id, "fail", { failure: recorded, countTry: countsAsTry(outcome) });
      sheet.noteFailure(attempt.jobId, recorded);
      sheet.addEvents([{ type: "stage.failed", ...about }]);
    }
  }
};

const failureOf = (r: Finish, stage: SheetStage): FailureRecord | null => {
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
const unknownFailure = (stage: SheetStage, message: string): FailureRecord => ({
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
