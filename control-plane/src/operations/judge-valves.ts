// Closes and opens the valves of pools: the reaper asks before it judges leases, so that a pool that fell silent at once is noticed
// before anything of it is given away. A person may open one. Every change is one event, written with the row.
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { judgeValve, type PoolFacts, type ValveVerdict, valveWindowBeats } from "../domain/valve.ts";
import type { Tx } from "../store/database.ts";
import { appendEvents } from "../store/events.ts";
import { closeValve, openValveRow, poolExists, readPools, restartLeasesOfPool } from "../store/valves.ts";
import type { Context } from "./context.ts";
import { listenBeats } from "./watch-hosts.ts";

/** `hearingMs`: how long silence could have been heard without a gap. */
export const judgeValves = async (ctx: Context, hearingMs: number): Promise<void> => {
  const { timings } = ctx;
  const windowMs = timings.heartbeatMs * valveWindowBeats;
  const isDeaf = hearingMs < timings.suspectMs + timings.heartbeatMs * listenBeats;
  for (const pool of await readPools(ctx.db.direct, { suspectMs: timings.suspectMs, windowMs })) {
    const verdict = judgeValve(pool, timings);
    if (verdict.action === "keep" || (verdict.action === "close" && isDeaf)) continue;
    const isDone = await ctx.db.transaction((tx) =>
      verdict.action === "close" ? close(ctx, tx, pool, verdict) : open(ctx, tx, pool, verdict),
    );
    if (!isDone) continue;
    ctx.bus.ring("events");
    const about = { pool: pool.pool, rule: verdict.rule, reason: verdict.reason };
    if (verdict.action === "close")
      ctx.log.error(about, "too many hosts fell silent at once; their work is not given away");
    else ctx.log.warn(about, "the hosts of a pool are judged again");
  }
};

const close = async (ctx: Context, tx: Tx, { pool, hosts, silent }: PoolFacts, v: ValveVerdict): Promise<boolean> => {
  const opensAt = await closeValve(tx, { pool, valveMs: ctx.timings.valveMs, reason: v.reason });
  if (opensAt === undefined) return false;
  const body = { pool, hosts, silent, reason: v.reason, opens_at: opensAt.toISOString() };
  await appendEvents(tx, [{ type: "pool.valve_closed", body }]);
  return true;
};

const open = async (ctx: Context, tx: Tx, { pool, hosts, silent }: PoolFacts, v: ValveVerdict): Promise<boolean> => {
  if (!(await openValveRow(tx, pool, v.rule))) return false;
  // Most came back through the same door; those that still pause before they dial again are not lost for that.
  if (v.rule === "recovered") await restartLeasesOfPool(tx, pool, ctx.timings.leaseMs);
  await appendEvents(tx, [
    { type: "pool.valve_opened", body: { pool, rule: v.rule, hosts, silent, reason: v.reason, by: "" } },
  ]);
  return true;
};

/** A person knows that the hosts are dead. False: the valve is open. Throws not_found. */
export const openValve = async (
  ctx: Context,
  r: { readonly pool: string; readonly reason: string; readonly by: string },
): Promise<boolean> => {
  const isOpened = await ctx.db.transaction(async (tx) => {
    if (await openValveRow(tx, r.pool, r.by)) {
      const body = { pool: r.pool, rule: "operator", reason: r.reason, by: r.by };
      await appendEvents(tx, [{ type: "pool.valve_opened", body }]);
      return true;
    }
    if (!(await poolExists(tx, r.pool)))
      throw new RenderplaneError("not_found", `There is no pool ${r.pool}.`, {
        next: "GET /api/v1/hosts names the pool of every host.",
      });
    return false;
  });
  ctx.bus.ring("events");
  if (isOpened) ctx.log.warn({ pool: r.pool, by: r.by, reason: r.reason }, "a person opened the valve of a pool");
  return isOpened;
};
