// Ends attempts whose offer or lease ran out. It can be wrong about a host but not about a lease: the fence makes a host that
// comes back harmless. So the guards err towards waiting: a lease is given away only when it was seen overdue twice, a beat apart,
// when nobody was away who could have heard its renewal, when its pool did not fall silent at once (judge-valves.ts), and for a few
// hosts of a pool a minute. Offers are no promise of a host: they expire at once.
import { restartLeases } from "../store/attempts.ts";
import { markLost, type Overdue, overdueLeases } from "../store/overdue.ts";
import { beatPulse, type Pulse } from "../store/valves.ts";
import type { Context } from "./context.ts";
import { type Finish, finishAttempt, finishAttempts } from "./finish-attempt.ts";
import { deafBeats } from "./watch-hosts.ts";

/** Attempts that one turn looks at; the next turn takes the rest. */
const maxPerTurn = 500;
/** Ended in one transaction; they hold the rows of as many jobs. */
const atOnce = 50;
/** Hosts of one pool whose work is given away within the window: moving a whole pool at once would bury what is left of it. */
const hostsPerWindow = 10;
/** A minute at the default. */
const windowBeats = 12;

/** When leases were first seen overdue (by attempt), on the monotonic clock of the loop that looks. */
export type Sightings = { readonly first: Map<string, number>; readonly nowMs: number };

/** Answers how many attempts it ended. Without sightings one look is enough: tests and simulations are their own clock. */
export const reapLeases = async (ctx: Context, sightings?: Sightings): Promise<number> => {
  const { graceMs, heartbeatMs } = ctx.timings;
  const windowMs = heartbeatMs * windowBeats;
  const overdue = await overdueLeases(ctx.db.direct, { graceMs, windowMs, hosts: hostsPerWindow, limit: maxPerTurn });
  const ripe = sightings ? ripeOf(overdue, sightings, heartbeatMs) : overdue;
  const lost = [...new Set(ripe.filter((a) => a.outcome === "lost").map((a) => a.hostId))];
  if (lost.length > 0) await ctx.db.transaction((tx) => markLost(tx, lost, windowMs));
  let ended = 0;
  for (let at = 0; at < ripe.length; at += atOnce) ended += await end(ctx, ripe.slice(at, at + atOnce));
  return ended;
};

/** Timers may be a little early; a beat less a tenth is a beat. */
const beatShare = 0.9;
const ripeOf = (overdue: readonly Overdue[], { first, nowMs }: Sightings, beatMs: number): Overdue[] => {
  const seen = new Set(overdue.map((attempt) => attempt.id));
  for (const id of first.keys()) if (!seen.has(id)) first.delete(id);
  return overdue.filter(({ id, outcome }) => {
    if (outcome === "expired") return true;
    const since = first.get(id) ?? nowMs;
    first.set(id, since);
    return nowMs - since >= beatMs * beatShare;
  });
};

const end = async (ctx: Context, attempts: readonly Overdue[]): Promise<number> => {
  const finishes = attempts.map(finishOf);
  let answers: readonly { readonly applied: boolean }[];
  try {
    answers = await finishAttempts(ctx, finishes);
  } catch (error) {
    // One that cannot be ended must not keep the others; alone, each shows its own fault.
    ctx.log.warn({ err: error, attempts: attempts.length }, "overdue attempts could not be ended together");
    answers = await oneByOne(ctx, finishes);
  }
  const ended = attempts.filter((_, i) => answers[i]?.applied);
  for (const { id, hostId, outcome } of ended)
    ctx.log.warn({ attempt: id, host: hostId, outcome }, "lease ended without a word from the host");
  return ended.length;
};

const oneByOne = async (ctx: Context, finishes: readonly Finish[]): Promise<{ applied: boolean }[]> => {
  const answers: { applied: boolean }[] = [];
  let fault: unknown;
  for (const finish of finishes)
    try {
      answers.push(await finishAttempt(ctx, finish));
    } catch (error) {
      fault = error;
      answers.push({ applied: false });
    }
  if (fault !== undefined && !answers.some((answer) => answer.applied)) throw fault;
  if (fault !== undefined) ctx.log.error({ err: fault }, "an overdue attempt could not be ended");
  return answers;
};

const finishOf = ({ id, fence, outcome }: Overdue): Finish => ({
  attemptId: id,
  fence,
  hostId: null,
  outcome,
  result: {},
  outputs: [],
  failure: null,
  usage: [],
  ifOverdue: true,
});

/** Every running lease gets its whole time again. */
export const restartCountdown = async (ctx: Context): Promise<void> =>
  tellRestart(ctx, await ctx.db.transaction((tx) => restartLeases(tx, ctx.timings.leaseMs)));
const tellRestart = (ctx: Context, leases: number): void => {
  if (leases > 0) ctx.log.warn({ leases }, "leases restarted their countdown");
};

/**
 * Notes a turn of the reaper, whoever leads it. After a pause longer than a lease (the database or every replica was away) nobody
 * could have heard a renewal, and every countdown starts again; a change of the leader is shorter and postpones nothing. One
 * transaction: a pause that is noted and not acted upon would never be seen again.
 */
export const beatReaper = async (ctx: Context): Promise<Pulse> => {
  const { heartbeatMs, leaseMs } = ctx.timings;
  const { pulse, leases } = await ctx.db.transaction(async (tx) => {
    const noted = await beatPulse(tx, "reaper", heartbeatMs * deafBeats);
    return { pulse: noted, leases: noted.pauseMs > leaseMs ? await restartLeases(tx, leaseMs) : 0 };
  });
  tellRestart(ctx, leases);
  return pulse;
};
