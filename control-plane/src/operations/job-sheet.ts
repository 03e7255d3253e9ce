// A sheet: the rows of some jobs under lock, changed in memory by the tables of the domain, written back in bulk.
// A hundred ends cost as many statements as one. Every move of a stage asks kernel/stage-state.ts; the guarded update is the second
// witness. What follows for a job (siblings stopped, its end, its one terminal event) is decided here, in the same transaction.
import {
  isFinalJob,
  isLeased,
  type JobState,
  next,
  type StageEvent,
  type StageState,
} from "@renderplane/proto/kernel/stage-state.ts";
import { dollarsFromMicros, type Micros } from "@renderplane/proto/kernel/units.ts";
import { deriveJobState } from "../domain/job.ts";
import type { FailureRecord, JsonObject } from "../domain/records.ts";
import type { Tx } from "../store/database.ts";
import { appendEvents, type NewEvent } from "../store/events.ts";
import { appendLedger, type LedgerEntry } from "../store/ledger.ts";
import {
  type AttemptEnd,
  closingFacts,
  lockSheetStages,
  type SheetJob,
  type SheetStage,
  type StageMove,
  writeAttemptEnds,
  writeJobMoves,
  writeStageMoves,
} from "../store/sheet.ts";
import type { Context } from "./context.ts";
import { overTarget, resultOf, terminalEvent } from "./job-end.ts";

export type MoveChange = Partial<Pick<StageMove, "delayMs" | "outputFence" | "result" | "failure" | "avoid">> & {
  readonly countTry?: boolean;
};

export type OpenJob = SheetJob & { readonly stages: readonly SheetStage[] };

export type JobSheet = {
  /** The clock of the database when the jobs were locked, in whole milliseconds; rows are written with all of its digits. */
  readonly now: Date;
  /** The same with all of its digits. */
  readonly at: string;
  job(id: string): OpenJob | undefined;
  stage(id: bigint): SheetStage | undefined;
  /** False: the table refuses the event from the stage's state; nothing changes then. */
  move(id: bigint, event: StageEvent, change?: MoveChange): boolean;
  /** One need of its stages is met; answers the names that became ready. */
  meetNeed(jobId: string, need: string): string[];
  endAttempt(end: AttemptEnd): void;
  addLedger(entries: readonly LedgerEntry[]): void;
  addEvents(events: readonly NewEvent[]): void;
  moveMoney(jobId: string, heldBy: Micros, spentBy: Micros): void;
  /** Kept when the job has none yet: the first failure is the one that people read. */
  noteFailure(jobId: string, failure: FailureRecord): void;
  start(jobId: string): void;
  /** After its stages moved: stops what must not go on after a failure, and ends the job when nothing is live any more. */
  advance(jobId: string): void;
  /** Jobs of which a sibling must stop: the bells of their hosts ring after the commit. */
  readonly stopping: ReadonlySet<string>;
  write(): Promise<void>;
};

type Draft = { -readonly [K in keyof StageMove]: StageMove[K] };

export const openJobSheet = async (ctx: Context, tx: Tx, jobs: readonly SheetJob[]): Promise<JobSheet> => {
  const at = jobs[0]?.now ?? "1970-01-01T00:00:00Z";
  const now = new Date(at);
  const stages = new Map<bigint, SheetStage>();
  const ofJob = new Map<string, bigint[]>(jobs.map((job) => [job.id, []]));
  for (const stage of jobs.length === 0
    ? []
    : await lockSheetStages(
        tx,
        jobs.map((job) => job.id),
      )) {
    stages.set(stage.id, stage);
    ofJob.get(stage.jobId)?.push(stage.id);
  }
  const open = new Map(jobs.map((job) => [job.id, job]));
  const drafts = new Map<bigint, Draft>();
  const money = new Map<string, { heldBy: Micros; spentBy: Micros }>();
  const touched = new Set<string>();
  const started = new Set<string>();
  const ended = new Map<string, JobState>();
  const stopping = new Set<string>();
  const ends: AttemptEnd[] = [];
  const ledger: LedgerEntry[] = [];
  const events: NewEvent[] = [];

  const stagesOf = (jobId: string): SheetStage[] =>
    (ofJob.get(jobId) ?? []).flatMap((id) => {
      const stage = stages.get(id);
      return stage ? [stage] : [];
    });
  const draftOf = (stage: SheetStage): Draft => {
    const draft = drafts.get(stage.id) ?? {
      id: stage.id,
      from: stage.state,
      to: stage.state,
      metNeeds: 0,
      countedTries: 0,
    };
    drafts.set(stage.id, draft);
    return draft;
  };
  const change = (id: string, by: Partial<SheetJob>): void => {
    const job = open.get(id);
    if (job) open.set(id, { ...job, ...by });
    touched.add(id);
  };

  const sheet: JobSheet = {
    now,
    at,
    job: (id) => {
      const job = open.get(id);
      return job && { ...job, stages: stagesOf(id) };
    },
    stage: (id) => stages.get(id),
    move: (id, event, { countTry, ...more } = {}) => {
      const stage = stages.get(id);
      const to = stage && next[stage.state][event];
      if (!stage || !to) return false;
      const draft = draftOf(stage);
      Object.assign(draft, more, { to, countedTries: draft.countedTries + (countTry ? 1 : 0) });
      stages.set(id, { ...stage, state: to, tries: stage.tries + (countTry ? 1 : 0) });
      return true;
    },
    meetNeed: (jobId, need) => {
      const ready: string[] = [];
      for (const stage of stagesOf(jobId)) {
        if (stage.state !== "pending" || !stage.needs.includes(need)) continue;
        draftOf(stage).metNeeds++;
        const openNeeds = stage.openNeeds - 1;
        stages.set(stage.id, { ...stage, openNeeds });
        if (openNeeds === 0 && sheet.move(stage.id, "unlock", { delayMs: 0 })) ready.push(stage.name);
      }
      return ready;
    },
    endAttempt: (end) => void ends.push(end),
    addLedger: (entries) => void ledger.push(...entries),
    addEvents: (list) => void events.push(...list),
    moveMoney: (jobId, heldBy, spentBy) => {
      const sum = money.get(jobId) ?? { heldBy: 0n, spentBy: 0n };
      money.set(jobId, { heldBy: sum.heldBy + heldBy, spentBy: sum.spentBy + spentBy });
      const job = open.get(jobId);
      if (job) change(jobId, { heldMicros: job.heldMicros + heldBy, spentMicros: job.spentMicros + spentBy });
    },
    noteFailure: (jobId, failure) => {
      const job = open.get(jobId);
      if (job && job.failure === null) change(jobId, { failure });
    },
    start: (jobId) => {
      started.add(jobId);
      change(jobId, { startedAt: now, state: "processing" });
    },
    advance: (jobId) => {
      const job = open.get(jobId);
      if (!job || isFinalJob(job.state)) return;
      if (stagesOf(jobId).some((s) => s.state === "failed") && stagesOf(jobId).some((s) => !isSettled(s.state))) {
        // Nothing that follows a failure may cost more: what has not begun is skipped, what runs is stopped.
        for (const stage of stagesOf(jobId)) if (!sheet.move(stage.id, "skip")) sheet.move(stage.id, "cancel");
        stopping.add(jobId);
      }
      const state = deriveJobState(
        stagesOf(jobId).map((s) => s.state),
        job.startedAt !== null,
      );
      if (!isFinalJob(state)) return;
      ended.set(jobId, state);
      change(jobId, { state, startedAt: job.startedAt ?? now });
    },
    stopping,
    write: async () => {
      const moves = [...drafts.values()].filter((m) => m.from !== m.to || m.metNeeds > 0);
      if (ends.length > 0) await all(writeAttemptEnds(tx, ends, at), ends.length, "attempts");
      if (moves.length > 0) await all(writeStageMoves(tx, moves, at), moves.length, "stages");
      await appendLedger(tx, ledger);
      const results = await close();
      if (touched.size > 0)
        await writeJobMoves(
          tx,
          [...touched].sort().map((id) => {
            const endedAs = ended.get(id);
            const result = results.get(id);
            return {
              id,
              ...(money.get(id) ?? { heldBy: 0n, spentBy: 0n }),
              failure: open.get(id)?.failure ?? null,
              hasStarted: started.has(id),
              ...(endedAs ? { endedAs } : {}),
              ...(result ? { result } : {}),
            };
          }),
          at,
        );
      await appendEvents(tx, events);
    },
  };

  /** The reports of the jobs that end now, and their terminal events. */
  const close = async (): Promise<Map<string, JsonObject>> => {
    const results = new Map<string, JsonObject>();
    if (ended.size === 0) return results;
    const facts = await closingFacts(tx, [...ended.keys()]);
    for (const id of ended.keys()) {
      const job = open.get(id);
      if (!job) continue;
      const result = resultOf(job, now, {
        costs: facts.costs.filter((line) => line.jobId === id),
        results: facts.results.filter((line) => line.jobId === id),
      });
      results.set(id, result);
      events.push(terminalEvent(job, result), ...overTarget(ctx, job, result));
      ctx.log.info(
        { job: id, state: job.state, seconds: result.processing_time, cost: dollarsFromMicros(job.spentMicros) },
        "job ended",
      );
    }
    return results;
  };
  return sheet;
};

const isSettled = (state: StageState): boolean =>
  isLeased(state)
    ? state === "cancelling"
    : state === "succeeded" || state === "failed" || state === "cancelled" || state === "skipped";

/** Under the job's lock nothing else moves these rows; if it did, the whole transaction is wrong and must not commit. */
const all = async (moved: Promise<number>, expected: number, what: string): Promise<void> => {
  const count = await moved;
  if (count !== expected)
    throw new Error(`${count} of ${expected} ${what} were as they had been read; nothing was written`);
};
