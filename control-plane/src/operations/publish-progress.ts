// Live progress of an attempt as a message about its job. Nothing is written: the renewal of the lease stores the numbers.
import { isLeased } from "@renderplane/proto/kernel/stage-state.ts";
import { jobProgress } from "../domain/job.ts";
import { listAttempts, readAttempt } from "../store/attempts.ts";
import { listStages } from "../store/stages.ts";
import type { Context } from "./context.ts";

export type LiveProgress = {
  readonly attemptId: string;
  readonly hostId: string;
  readonly fraction: number;
  readonly speed: number;
  readonly etaMs: number | null;
  readonly step: string;
};

/** A fifth of the connections of a replica: the rest stays for leases and submissions however slow the database is. */
const maxInWork = 4;

/** Publishes while few are in work and drops what comes meanwhile: the next progress follows in half a second. */
export const progressPublisher = (ctx: Context): ((live: LiveProgress) => void) => {
  let inWork = 0;
  return (live) => {
    if (inWork >= maxInWork) return;
    inWork++;
    publishProgress(ctx, live)
      .catch((error: unknown) => ctx.log.warn({ err: error }, "live progress was not published"))
      .finally(() => inWork--);
  };
};

const publishProgress = async (ctx: Context, live: LiveProgress): Promise<void> => {
  const attempt = await readAttempt(ctx.db.direct, live.attemptId);
  if (!attempt || attempt.hostId !== live.hostId || attempt.state === "ended") return;
  const stages = await listStages(ctx.db.direct, attempt.jobId);
  const attempts = await listAttempts(ctx.db.direct, attempt.jobId);
  const stage = stages.find((s) => s.id === attempt.stageId);
  if (!stage || !isLeased(stage.state)) return;
  const progress = jobProgress(
    stages.map((s) => ({
      state: s.state,
      weight: s.spec.timeoutMs,
      fraction: s.id === stage.id ? live.fraction : (attempts.findLast((a) => a.stageId === s.id)?.progress ?? 0),
    })),
  );
  ctx.bus.publish("pipeline:progress", {
    video_id: attempt.jobId,
    stage: stage.name,
    progress: Math.round(progress * 1000) / 10,
    stage_progress: live.fraction,
    step: live.step,
    speed: live.speed,
    eta_seconds: live.etaMs === null ? null : Math.round(live.etaMs / 1000),
    timestamp: new Date().toISOString(),
  });
};
