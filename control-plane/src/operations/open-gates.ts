// The gates as they stand now: limits from the settings and the pipelines, counts from the database. Where no limit is set that could
// be reached, nothing is counted: a fleet without limits pays nothing for them.
import { type ClosedGates, createGates, type Gates } from "../domain/gates.ts";
import type { Tx } from "../store/database.ts";
import { readConcurrency } from "../store/queue.ts";
import type { Context } from "./context.ts";

/** The default of the limits of jobs (see config.ts): as good as none. */
const unreachable = 1_000_000;

export const openGates = async (ctx: Context, tx: Tx): Promise<Gates> => {
  const limits = ctx.settings.concurrency;
  const isLimited =
    limits.jobs < unreachable ||
    limits.jobsPerUser < unreachable ||
    limits.attemptsPerProvider.size > 0 ||
    [...ctx.pipelines.values()].some((pipeline) => pipeline.max_running !== undefined);
  const counts = isLimited ? await readConcurrency(tx, [...limits.attemptsPerProvider.keys()]) : nothing();
  return createGates(limits, ctx.pipelines, counts);
};

export const closedGates = async (ctx: Context): Promise<ClosedGates> => (await openGates(ctx, ctx.db.direct)).closed();

const nothing = () => ({
  jobs: 0,
  byUser: new Map(),
  byPipeline: new Map(),
  byProvider: new Map(),
  offeredJobs: new Set<string>(),
});
