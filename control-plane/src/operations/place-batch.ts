// Places a batch of ready stages in one transaction: asks the gates, then a round of placement, and writes attempts, leases, holds and
// events of all of them. A job that another operation holds is passed over; a job over its budget ends here, before it costs anything.
import { type FailureClass, factsOf } from "@renderplane/proto/kernel/failure.ts";
import { admitHold } from "../domain/budget.ts";
import { type ClosedGates, type GateStage, providerRule } from "../domain/gates.ts";
import { hourlyPrices } from "../domain/host-price.ts";
import { type Choice, type Need, waitingReason } from "../domain/placement.ts";
import { createRound } from "../domain/placement-round.ts";
import type { FailureRecord, JsonObject, StageRow } from "../domain/records.ts";
import { hostsOfJobs, insertAttempts, type NewAttempt } from "../store/attempts.ts";
import type { Tx } from "../store/database.ts";
import { appendEvents } from "../store/events.ts";
import { appendLedger } from "../store/ledger.ts";
import { heldAllocations, type InventoryMemory, lockPlacement, placeableHosts } from "../store/placement.ts";
import { inputsAtHosts } from "../store/queue.ts";
import { lockFreeSheetJobs, type SheetJob, writeJobMoves } from "../store/sheet.ts";
import { lockReadyStages, markOffered, noteWaiting } from "../store/stages.ts";
import type { Context } from "./context.ts";
import { openJobSheet } from "./job-sheet.ts";
import { openGates } from "./open-gates.ts";

export type Head = readonly { readonly id: bigint; readonly jobId: string }[];
export type Placed = {
  /** Stages that were offered or ended by the budget. */
  readonly moved: number;
  /** Shapes that fit nowhere now, or whose providers have no room. */
  readonly refused: readonly string[];
  readonly closed: ClosedGates;
  /** Hosts for which something waits now. */
  readonly hostIds: ReadonlySet<string>;
};
type Offer = { readonly attempt: NewAttempt; readonly stage: StageRow; readonly choice: Choice };
type Halt = { readonly job: SheetJob; readonly stage: StageRow; readonly reason: string };

export const placeBatch = (ctx: Context, head: Head, inventories: InventoryMemory): Promise<Placed> =>
  ctx.db.transaction(async (tx) => {
    await lockPlacement(tx);
    const locked = await lockFreeSheetJobs(tx, [...new Set(head.map((s) => s.jobId))]);
    const jobs = new Map(locked.map((job) => [job.id, job]));
    const stages = await lockReadyStages(
      tx,
      head.filter((s) => jobs.has(s.jobId)).map((s) => s.id),
    );
    const gates = await openGates(ctx, tx);
    const needs = await needsOf(tx, stages, jobs);
    const round = await openRound(ctx, tx, inventories, [...needs.values()]);
    const offers = new Map<bigint, Offer>();
    const halts: Halt[] = [];
    const waiting: { id: bigint; reason: JsonObject }[] = [];
    const refused = new Set<string>();
    for (const stage of stages) {
      const job = jobs.get(stage.jobId);
      const need = needs.get(stage.id);
      if (!job || !need) continue;
      const hold = admitHold(job, stage.name, stage.estimatedMicros);
      if (!hold.ok) {
        halts.push({ job, stage, reason: hold.reason });
        jobs.delete(job.id);
        // Siblings of this batch are not offered either: their room is free again for the rest of it.
        for (const [id, offer] of offers) {
          if (offer.attempt.jobId !== job.id) continue;
          round.undo(offer.choice);
          gates.withdraw(gateStage(offer.stage, job));
          offers.delete(id);
        }
        continue;
      }
      const gate = gates.admit(gateStage(stage, job));
      if (!gate.ok) {
        waiting.push({ id: stage.id, reason: { rule: gate.rule, reason: gate.reason } });
        // Equal shapes name equal providers; enough of them in front would keep everything behind them from free hosts.
        if (gate.rule === providerRule) refused.add(stage.shape);
        continue;
      }
      const { choice, verdicts } = round.place(need);
      if (!choice) {
        gates.withdraw(gateStage(stage, job));
        waiting.push({ id: stage.id, reason: waitingReason(verdicts()) });
        refused.add(stage.shape);
        continue;
      }
      jobs.set(job.id, { ...job, heldMicros: job.heldMicros + stage.estimatedMicros });
      offers.set(stage.id, {
        stage,
        choice,
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
    await write(ctx, tx, [...offers.values()]);
    await noteWaiting(tx, waiting);
    const stopping = await halt(ctx, tx, halts);
    return {
      moved: offers.size + halts.length,
      refused: [...refused],
      closed: gates.closed(),
      hostIds: new Set([...[...offers.values()].map((o) => o.attempt.hostId), ...stopping]),
    };
  });

const gateStage = (stage: StageRow, job: SheetJob): GateStage => ({
  jobId: job.id,
  jobHasBegun: job.state === "processing",
  userId: stage.userId,
  pipeline: stage.pipeline,
  providers: stage.spec.providers,
});

const needsOf = async (
  tx: Tx,
  stages: readonly StageRow[],
  jobs: ReadonlyMap<string, SheetJob>,
): Promise<Map<bigint, Need>> => {
  const later = stages.filter((s) => s.spec.needs.length > 0).map((s) => s.id);
  const local = later.length === 0 ? new Map<bigint, ReadonlyMap<string, number>>() : await inputsAtHosts(tx, later);
  return new Map(
    stages.map((stage) => {
      const msToDeadline = jobs.get(stage.jobId)?.msToDeadline ?? undefined;
      const atHosts = local.get(stage.id);
      const need: Need = {
        kind: stage.kind,
        spec: stage.spec,
        shape: stage.shape,
        avoid: stage.avoid,
        ...(msToDeadline === undefined ? {} : { msToDeadline }),
        ...(atHosts ? { local: atHosts } : {}),
      };
      return [stage.id, need];
    }),
  );
};

const openRound = async (ctx: Context, tx: Tx, inventories: InventoryMemory, waiting: readonly Need[]) => {
  const hosts = await placeableHosts(tx, inventories);
  const held = Map.groupBy(await heldAllocations(tx), (a) => a.hostId);
  return createRound(
    hosts.map((host) => ({ host, held: (held.get(host.id) ?? []).map((a) => a.allocation) })),
    { suspectMs: ctx.timings.suspectMs, ...hourlyPrices(ctx.prices), waiting },
  );
};

const write = async (ctx: Context, tx: Tx, offers: readonly Offer[]): Promise<void> => {
  if (offers.length === 0) return;
  const attempts = offers.map((o) => o.attempt);
  await insertAttempts(tx, attempts, ctx.timings.offerMs);
  await markOffered(
    tx,
    offers.map((o) => o.stage.id),
  );
  await appendLedger(
    tx,
    attempts.map((attempt) => ({
      jobId: attempt.jobId,
      attemptId: attempt.id,
      kind: "hold",
      service: "stage",
      provider: "",
      micros: attempt.holdMicros,
      basis: { estimate: true },
    })),
  );
  await writeHolds(tx, attempts);
  await appendEvents(
    tx,
    offers.map(({ attempt, stage, choice }) => ({
      type: "stage.offered",
      jobId: attempt.jobId,
      hostId: attempt.hostId,
      body: { stage: stage.name, attempt: attempt.id, number: attempt.number, host: choice.host },
    })),
  );
};

const writeHolds = async (tx: Tx, attempts: readonly NewAttempt[]): Promise<void> => {
  const held = new Map<string, bigint>();
  for (const { jobId, holdMicros } of attempts) held.set(jobId, (held.get(jobId) ?? 0n) + holdMicros);
  await writeJobMoves(
    tx,
    [...held].map(([id, heldBy]) => ({ id, heldBy, spentBy: 0n, failure: null, hasStarted: false })),
    null,
  );
};

/** The budget ends these jobs before their stages cost anything. Answers the hosts that have to stop their siblings. */
const halt = async (ctx: Context, tx: Tx, halts: readonly Halt[]): Promise<readonly string[]> => {
  if (halts.length === 0) return [];
  const sheet = await openJobSheet(
    ctx,
    tx,
    halts.map((h) => h.job),
  );
  const failureClass: FailureClass = "cost_limit";
  for (const { job, stage, reason } of halts) {
    const failure: FailureRecord = {
      failureClass,
      severity: factsOf(failureClass).severity,
      message: reason,
      stage: stage.name,
    };
    sheet.move(stage.id, "fail", { failure });
    sheet.noteFailure(job.id, failure);
    sheet.addEvents([
      { type: "stage.failed", jobId: job.id, body: { stage: stage.name, failure, rule: "cost-limit" } },
    ]);
    sheet.advance(job.id);
  }
  await sheet.write();
  return hostsOfJobs(
    tx,
    halts.map((h) => h.job.id),
  );
};
