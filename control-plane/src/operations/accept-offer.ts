// A host took an offer: the attempt runs from now on, by the database's clock, and may cost money.
import { lockAttempt, readAttempt, startAttempt } from "../store/attempts.ts";
import type { Tx } from "../store/database.ts";
import { appendEvents } from "../store/events.ts";
import { isCurrentEpoch, readHost } from "../store/hosts.ts";
import { lockJob, markJobStarted } from "../store/jobs.ts";
import { lockStage, moveStage } from "../store/stages.ts";
import type { Context } from "./context.ts";

export type Acceptance = {
  readonly hostId: string;
  readonly epoch: bigint;
  readonly attemptId: string;
  readonly fence: bigint;
};

/** False: too late, the lease is somebody else's; the host must stop. True again when it was accepted before. */
export const acceptOffer = async (ctx: Context, r: Acceptance): Promise<boolean> => {
  const accepted = await ctx.db.transaction((tx) => acceptIn(ctx, tx, r));
  if (accepted) ctx.bus.ring("events");
  return accepted;
};

/** The same inside a transaction: a resumed session accepts what the host journaled before the stream was lost. */
export const acceptIn = async (ctx: Context, tx: Tx, r: Acceptance): Promise<boolean> => {
  const known = await readAttempt(tx, r.attemptId);
  if (!known || known.hostId !== r.hostId || known.fence !== r.fence) return false;
  const job = await lockJob(tx, known.jobId);
  const stage = job && (await lockStage(tx, known.stageId));
  const attempt = stage && (await lockAttempt(tx, r.attemptId));
  if (!attempt || !stage || !job || !(await isCurrentEpoch(tx, r.hostId, r.epoch))) return false;
  if (attempt.state === "running") return true;
  if (attempt.state === "ended" || stage.state !== "offered") return false;
  if (!(await startAttempt(tx, { ...r, leaseMs: ctx.timings.leaseMs }))) return false;
  await moveStage(tx, stage.id, "accept");
  const host = await readHost(tx, r.hostId);
  const isFirst = await markJobStarted(tx, job.id);
  await appendEvents(tx, [
    ...(isFirst ? [{ type: "job.started", jobId: job.id, body: {} }] : []),
    {
      type: "stage.started",
      jobId: job.id,
      hostId: r.hostId,
      body: { stage: stage.name, attempt: attempt.id, number: attempt.number, host: host?.name ?? "" },
    },
  ]);
  return true;
};
