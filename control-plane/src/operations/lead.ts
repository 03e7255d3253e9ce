// Leading a loop: taking the lead, giving it back, and the context under which the leader's turns run. In that context every
// transaction begins with the term check, so a leader that slept, hung or was cut off past its lease writes nothing (I13).
// Who tries and how often is loops/led.ts. Operations do not know any of this: they get a context and use it as always.
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import type { Database, Tx } from "../store/database.ts";
import { endLead, holdsLead, upsertLead } from "../store/leaders.ts";
import type { Context } from "./context.ts";

export type Lead = {
  readonly loop: string;
  readonly holder: string;
  readonly term: bigint;
  /** On the monotonic clock of this process: past it this replica must not believe that it leads. Moves with every renewal. */
  trustedUntil: number;
};
export type LeadOutcome =
  | { readonly isMine: true; readonly lead: Lead }
  /** `freeInMs`: when the lease of the other one ends, unless it is renewed. */
  | { readonly isMine: false; readonly freeInMs: number };

/** One second at the default of fifteen: the clocks of two machines run differently by less than that in so short a time. */
const marginOf = (leaderMs: number): number => leaderMs / 15;

/** Takes or renews the lead; the trust counts from before the statement was sent, never from its answer. */
export const takeLead = async (ctx: Context, loop: string): Promise<LeadOutcome> => {
  const { leaderMs } = ctx.timings;
  const sent = performance.now();
  const { term, freeInMs } = await upsertLead(ctx.db.direct, { loop, holder: ctx.replica, leaseMs: leaderMs });
  if (term === null) return { isMine: false, freeInMs: Math.max(0, freeInMs ?? 0) };
  return {
    isMine: true,
    lead: { loop, holder: ctx.replica, term, trustedUntil: sent + leaderMs - marginOf(leaderMs) },
  };
};

/** Lets another replica begin at once instead of after the lease. */
export const giveLead = async (ctx: Context, lead: Lead): Promise<void> => {
  await endLead(ctx.db.direct, lead);
  ctx.bus.ring("lead");
};

export const isTrusted = (lead: Lead): boolean => performance.now() < lead.trustedUntil;

/**
 * A context whose transactions hold only while `lead` does; `stepDown` is told when one was refused. Single statements that
 * write become such a transaction too; those that read are sent as they are, because what a turn reads it checks again when it writes.
 */
export const withTerm = (ctx: Context, lead: Lead, stepDown: () => void): Context => {
  const lost = (): RenderplaneError => {
    stepDown();
    return new RenderplaneError("unavailable", `this replica no longer leads ${lead.loop} (term ${lead.term})`, {
      retryAfterMs: ctx.timings.leaderMs,
    });
  };
  const transaction: Database["transaction"] = async (act) => {
    if (!isTrusted(lead)) throw lost();
    let isRefused = false;
    try {
      return await ctx.db.transaction(async (tx) => {
        isRefused = !(await holdsLead(tx, lead));
        if (isRefused) throw lost();
        return act(tx);
      });
    } catch (error) {
      // The lock of the row may be what was waited for; whoever holds it knows better.
      if (!isRefused && !isTrusted(lead)) stepDown();
      throw error;
    }
  };
  const direct: Tx = {
    query: (sql, params) =>
      mayWrite.test(sql) ? transaction((tx) => tx.query(sql, params)) : ctx.db.direct.query(sql, params),
  };
  return { ...ctx, db: { ...ctx.db, direct, transaction } };
};

/** Errs towards a transaction: the words also stand in some statements that only read. */
const mayWrite = /\b(insert|update|delete|merge|truncate|nextval|setval)\b/i;
