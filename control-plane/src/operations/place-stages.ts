// Takes the head of the queue and gives it to hosts: attempts, leases, holds and events of the whole batch in one transaction.
// Safe on two replicas at once: jobs that another one holds are passed over, and the hosts' rows are held while room is given.
import { type FailureClass, factsOf } from "@renderplane/proto/kernel/failure.ts";
import { admitHold } from "../domain/budget.ts";
import { type Candidate, type HostVerdict, place } from "../domain/placement.ts";
import type { AllocationRecord, FailureRecord, JobRow, JsonObject, StageRow } from "../domain/records.ts";
import { hostsOfJob, insertAttempts, type NewAttempt } from "../store/attempts.ts";
import type { Tx } from "../store/database.ts";
import { appendEvents } from "../store/events.ts";
import { liveAllocations, lockHosts } from "../store/hosts.ts";
import { lockFreeJobs, markJobFailure, moveJobMoney } from "../store/jobs.ts";
import { appendLedger } from "../store/ledger.ts";
import { lockReadyStages, markOffered, moveStage, noteWaiting, readyHead } from "../store/stages.ts";
import { advanceJob } from "./advance-job.ts";
import type { Context } from "./context.ts";

/** Stages placed in one transaction; the next batch follows while this one was full and something came of it. */
const batchSize = 200;

export const placeStages = async (ctx: Context): Promise<void> => {
  const refused = new Set<string>();
  for (;;) {
    const head = await readyHead(ctx.db.direct, batchSize, [...refused]);
    if (head.length === 0) return;
    const before = refused.size;
    const placed = await placeBatch(ctx, head);
    for (const hostId of placed.hostIds) ctx.bus.ring(`host:${hostId}`);
    ctx.bus.ring("events");
    for (const shape of placed.refused) refused.add(shape);
    // Neither: other replicas hold these jobs, and the next turn looks again.
    if (head.length < batchSize || (placed.moved === 0 && refused.size === before)) return;
  }
};

const placeBatch = (ctx: Context, head: readonly { readonly id: bigint; readonly jobId: string }[]) =>
  ctx.db.transaction(async (tx) => {
    const jobs = new Map(
      (await lockFreeJobs(tx, [...new Set(head.map((s) => s.jobId))])).map((job) => [job.id, { ...job }]),
    );
    const stages = await lockReadyStages(
      tx,
      head.filter((s) => jobs.has(s.jobId)).map((s) => s.id),
    );
    const candidates = await readCandidates(tx);
    let offers: { readonly attempt: NewAttempt; readonly stage: StageRow; readonly host: string }[] = [];
    const waiting: { id: bigint; reason: JsonObject }[] = [];
    const refused: string[] = [];
    const hostIds = new Set<string>();
    let halted = 0;
    for (const stage of stages) {
      const job = jobs.get(stage.jobId);
      if (!job) continue;
      const hold = admitHold(job, stage.name, stage.estimatedMicros);
      if (!hold.ok) {
        for (const hostId of await haltAt(ctx, tx, job, stage, hold.reason)) hostIds.add(hostId);
        halted++;
        jobs.delete(job.id);
        // Siblings of this turn are not offered either: their room is free again for the rest of the batch.
        for (const offer of offers.filter((o) => o.attempt.jobId === job.id)) {
          const held = candidates.find((c) => c.host.id === offer.attempt.hostId)?.held;
          held?.splice(held.indexOf(offer.attempt.allocation), 1);
        }
        offers = offers.filter((o) => o.attempt.jobId !== job.id);
        continue;
      }
      const need = { kind: stage.kind, spec: stage.spec, avoid: stage.avoid };
      const { choice, verdicts } = place(need, candidates);
      const chosen = choice && candidates.find((c) => c.host.id === choice.hostId);
      if (!choice || !chosen) {
        waiting.push({ id: stage.id, reason: waitingReason(verdicts) });
        refused.push(stage.shape);
        continue;
      }
      chosen.held.push(choice.allocation);
      jobs.set(job.id, { ...job, heldMicros: job.heldMicros + stage.estimatedMicros });
      offers.push({
        stage,
        host: chosen.host.name,
        attempt: {
          id: ctx.newId("a"),
          stageId: stage.id,
          jobId: job.id,
          hostId: choice.hostId,
          number: stage.attempts + 1,
          allocation: choice.allocation,
          holdMicros: stage.estimatedMicros,
        },
      });
    }
    await write(ctx, tx, offers);
    await noteWaiting(tx, waiting);
    for (const { attempt } of offers) hostIds.add(attempt.hostId);
    return { moved: offers.length + halted, refused, hostIds };
  });

/** `held` grows while the batch is placed. */
type Counted = Candidate & { readonly held: AllocationRecord[] };
const readCandidates = async (tx: Tx): Promise<Counted[]> => {
  const hosts = await lockHosts(tx);
  const live = await liveAllocations(tx);
  return hosts.map((host) => ({ host, held: live.filter((a) => a.hostId === host.id).map((a) => a.allocation) }));
};

const write = async (
  ctx: Context,
  tx: Tx,
  offers: readonly { readonly attempt: NewAttempt; readonly stage: StageRow; readonly host: string }[],
): Promise<void> => {
  if (offers.length === 0) return;
  await insertAttempts(
    tx,
    offers.map((o) => o.attempt),
    ctx.timings.offerMs,
  );
  await markOffered(
    tx,
    offers.map((o) => o.stage.id),
  );
  await appendLedger(
    tx,
    offers.map(({ attempt }) => ({
      jobId: attempt.jobId,
      attemptId: attempt.id,
      kind: "hold",
      service: "stage",
      provider: "",
      micros: attempt.holdMicros,
      basis: { estimate: true },
    })),
  );
  for (const { attempt } of offers) await moveJobMoney(tx, attempt.jobId, attempt.holdMicros, 0n);
  await appendEvents(
    tx,
    offers.map(({ attempt, stage, host }) => ({
      type: "stage.offered",
      jobId: attempt.jobId,
      hostId: attempt.hostId,
      body: { stage: stage.name, attempt: attempt.id, number: attempt.number, host },
    })),
  );
};

/** The budget ends the job before the stage costs anything. Answers the hosts that have to stop its siblings. */
const haltAt = async (ctx: Context, tx: Tx, job: JobRow, stage: StageRow, reason: string): Promise<string[]> => {
  const failureClass: FailureClass = "cost_limit";
  const failure: FailureRecord = {
    failureClass,
    severity: factsOf(failureClass).severity,
    message: reason,
    stage: stage.name,
  };
  await moveStage(tx, stage.id, "fail", { failure });
  await markJobFailure(tx, job.id, failure);
  await appendEvents(tx, [
    { type: "stage.failed", jobId: job.id, body: { stage: stage.name, failure, rule: "cost-limit" } },
  ]);
  await advanceJob(ctx, tx, { ...job, failure });
  return hostsOfJob(tx, job.id);
};

/** Short, and the same while nothing changes: reasons per host are worked out anew by `explain`. */
const waitingReason = (verdicts: readonly HostVerdict[]): JsonObject => {
  if (verdicts.length === 0)
    return { rule: "no-host", reason: "no host is enrolled; add one with: npx renderplane host enroll-command" };
  const counts = new Map<string, number>();
  for (const v of verdicts) counts.set(v.rule, (counts.get(v.rule) ?? 0) + 1);
  const [rule = ""] = [...counts.entries()].sort((a, b) => b[1] - a[1])[0] ?? [];
  const one = verdicts.find((v) => v.rule === rule);
  return {
    rule,
    reason:
      verdicts.length === 1
        ? `${one?.host}: ${one?.reason}`
        : `none of ${verdicts.length} hosts can take it; most often: ${rule}`,
  };
};
