// A loop that only one replica runs at a time. Every replica tries for the lead; the one that has it makes the loop anew under its
// term, renews three times a lease, and ends the loop when the lead is lost. A loop made anew remembers nothing of an earlier
// lead. Invariant: what the loop writes after the lead is lost is refused by the term check, so being late here is harmless.
import { type Rhythm, rhythm } from "@renderplane/proto/kernel/process/rhythm.ts";
import type { Context } from "../operations/context.ts";
import { giveLead, isTrusted, type Lead, takeLead, withTerm } from "../operations/lead.ts";
import { listening } from "./listening.ts";

/** After the end of another one's lease: the statement then sees it as ended. */
const afterEndMs = 5;

export type LedLoop = Rhythm & { readonly lead: () => Lead | undefined };

export const led = (ctx: Context, loop: string, make: (ctx: Context) => Rhythm): LedLoop => {
  const renewMs = Math.max(20, ctx.timings.leaderMs / 3);
  const log = ctx.log.child({ loop });
  let current: { readonly lead: Lead; readonly inner: Rhythm } | undefined;

  const stepDown = async (why: string): Promise<void> => {
    const was = current;
    if (!was) return;
    current = undefined;
    log.info({ term: String(was.lead.term), why }, "lead given up");
    await was.inner.stop();
  };
  const begin = async (lead: Lead): Promise<void> => {
    // A refusal wakes the tries below, which then read whose the lead is.
    const inner = make(withTerm(ctx, lead, () => tries.ring()));
    current = { lead, inner };
    await inner.start();
    log.info({ term: String(lead.term) }, "lead taken");
  };
  const tries = rhythm({
    name: `${loop} (led)`,
    periodMs: renewMs,
    // A database that is away is asked again soon, so that the lead is back right after it.
    errorPauseMs: Math.min(1_000, renewMs),
    turn: async () => {
      const outcome = await takeLead(ctx, loop).catch(async (error: unknown) => {
        if (current && !isTrusted(current.lead)) await stepDown("not renewed in time");
        throw error;
      });
      if (!outcome.isMine) {
        await stepDown("another replica leads");
        return Math.min(renewMs, outcome.freeInMs + afterEndMs);
      }
      if (current?.lead.term === outcome.lead.term) {
        current.lead.trustedUntil = outcome.lead.trustedUntil;
        return renewMs;
      }
      await stepDown("the lease had ended");
      await begin(outcome.lead);
      return renewMs;
    },
    onError: (error) => log.warn({ err: error }, "the lead could not be taken or renewed"),
  });
  const stop = async (): Promise<void> => {
    await tries.stop();
    const was = current;
    await stepDown("stopping");
    // Without the database the lease ends by itself.
    if (was)
      await giveLead(ctx, was.lead).catch((error: unknown) => log.warn({ err: error }, "the lead was not released"));
  };
  return {
    ...listening({ ...tries, stop }, () => ctx.bus.on("lead", tries.ring)),
    lead: () => current?.lead,
  };
};
