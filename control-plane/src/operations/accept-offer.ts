// Hosts took their offers: the attempts run from now on, by the database's clock, and may cost money.
import { acceptances, startAttempts } from "../store/attempts.ts";
import type { Tx } from "../store/database.ts";
import { appendEvents } from "../store/events.ts";
import { lockJobsOfAttempts, markJobsStarted } from "../store/sheet.ts";
import { markAccepted } from "../store/stages.ts";
import type { Context } from "./context.ts";

export type Acceptance = {
  readonly hostId: string;
  readonly epoch: bigint;
  readonly attemptId: string;
  readonly fence: bigint;
};

/** False: too late, the lease is somebody else's; the host must stop. True again when it was accepted before. */
export const acceptOffer = async (ctx: Context, r: Acceptance): Promise<boolean> =>
  (await acceptOffers(ctx, [r]))[0] ?? false;

/** In one transaction; one answer each, in their order. */
export const acceptOffers = async (ctx: Context, list: readonly Acceptance[]): Promise<readonly boolean[]> => {
  const accepted = await ctx.db.transaction((tx) => acceptIn(ctx, tx, list));
  if (accepted.includes(true)) ctx.bus.ring("events");
  return accepted;
};

/** The same inside a transaction: a resumed session accepts what the host journaled before the stream was lost. */
export const acceptIn = async (ctx: Context, tx: Tx, list: readonly Acceptance[]): Promise<readonly boolean[]> => {
  if (list.length === 0) return [];
  const ids = list.map((r) => r.attemptId);
  // Whoever ends an attempt or cancels its stage holds the job, so what is read next stays as it is.
  const jobs = new Map((await lockJobsOfAttempts(tx, ids)).map((job) => [job.id, job]));
  const known = new Map((await acceptances(tx, ids)).map((row) => [row.id, row]));
  const isTheirs = (r: Acceptance) => {
    const row = known.get(r.attemptId);
    return row && row.hostId === r.hostId && row.fence === r.fence && row.epoch === r.epoch ? row : undefined;
  };
  const begun = [
    ...new Map(
      list.flatMap((r) => {
        const row = isTheirs(r);
        return row?.state === "offered" && row.stageState === "offered" ? [[row.id, row] as const] : [];
      }),
    ).values(),
  ];
  if (begun.length > 0) {
    await startAttempts(
      tx,
      begun.map((row) => row.id),
      ctx.timings.leaseMs,
    );
    await markAccepted(
      tx,
      begun.map((row) => row.stageId),
    );
    const first = [...new Set(begun.map((row) => row.jobId))].filter((id) => jobs.get(id)?.state === "queued");
    await markJobsStarted(tx, first);
    await appendEvents(tx, [
      ...first.map((jobId) => ({ type: "job.started", jobId, body: {} })),
      ...begun.map((row) => ({
        type: "stage.started",
        jobId: row.jobId,
        hostId: row.hostId,
        body: { stage: row.stage, attempt: row.id, number: row.number, host: row.host },
      })),
    ]);
  }
  const started = new Set(begun.map((row) => row.id));
  return list.map((r) => (started.has(r.attemptId) ? isTheirs(r) !== undefined : isTheirs(r)?.state === "running"));
};
