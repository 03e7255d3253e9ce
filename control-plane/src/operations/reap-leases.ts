// Ends attempts whose offer or lease ran out. It can be wrong about a host but not about a lease: the fence makes a host that
// comes back harmless. After an outage of ours the countdown starts again, because we could not have heard a renewal.
import { overdueAttempts, restartLeases } from "../store/attempts.ts";
import { closeSessionsOf } from "../store/hosts.ts";
import type { Context } from "./context.ts";
import { finishAttempt } from "./finish-attempt.ts";

const batchSize = 500;

/** Answers how many attempts it ended. */
export const reapLeases = async (ctx: Context): Promise<number> => {
  const overdue = await overdueAttempts(ctx.db.direct, ctx.timings.graceMs, batchSize);
  let ended = 0;
  for (const attempt of overdue) {
    const { applied } = await finishAttempt(ctx, {
      attemptId: attempt.id,
      fence: attempt.fence,
      hostId: null,
      outcome: attempt.outcome,
      result: {},
      outputs: [],
      failure: null,
      usage: [],
      ifOverdue: true,
    });
    if (!applied) continue;
    ended++;
    ctx.log.warn(
      { attempt: attempt.id, host: attempt.hostId, outcome: attempt.outcome },
      "lease ended without a word from the host",
    );
  }
  return ended;
};

/** At start: streams of our former self are closed and running leases begin their countdown again. */
export const resumeReplica = async (ctx: Context): Promise<void> => {
  await closeSessionsOf(ctx.db.direct, ctx.replica);
  await restartCountdown(ctx);
};

/** Every running lease gets its whole time again. */
export const restartCountdown = async (ctx: Context): Promise<void> => {
  const leases = await restartLeases(ctx.db.direct, ctx.timings.leaseMs);
  if (leases > 0) ctx.log.warn({ leases }, "leases restarted their countdown");
};
