// One turn of placement: goes through the queue from its head and has batches of it placed, until nothing more can be given away.
// Reads a bounded part of the queue; where it stopped, the next turn goes on after another look at the head. Work of jobs that have
// begun is found behind closed gates too, wherever in the queue it stands.
import type { ClosedGates } from "../domain/gates.ts";
import type { InventoryMemory } from "../store/placement.ts";
import { type QueuePlace, readyHead, readyOfBegunJobs } from "../store/stages.ts";
import type { Context } from "./context.ts";
import { closedGates } from "./open-gates.ts";
import { type Head, placeBatch } from "./place-batch.ts";

/** Stages placed in one transaction; its locks are held while all of them are written. */
const batchSize = 200;
/** Entries of the queue that one statement reads, and how often a turn reads on behind what it passes over. */
const windowSize = 5_000;
const maxWindows = 20;
const top: QueuePlace = { rank: -(2n ** 63n), id: 0n };

/** What one placer remembers between its turns. Losing it costs one slower turn. */
export type PlacementMemory = {
  readonly inventories: InventoryMemory;
  /** Behind this nobody has looked for a while; undefined: the last turn came to the end of the queue. */
  deep: QueuePlace | undefined;
};
export const newPlacementMemory = (): PlacementMemory => ({ inventories: new Map(), deep: undefined });

export const placeStages = async (ctx: Context, memory: PlacementMemory = newPlacementMemory()): Promise<void> => {
  const refused = new Set<string>();
  let closed = await closedGates(ctx);
  /** Answers whether something came of it: an offer, an end, or a shape that need not be tried again. */
  const placeHead = async (head: Head): Promise<boolean> => {
    if (head.length === 0) return false;
    const before = refused.size;
    const placed = await placeBatch(ctx, head, memory.inventories);
    closed = placed.closed;
    for (const hostId of placed.hostIds) ctx.bus.ring(`host:${hostId}`);
    ctx.bus.ring("events");
    for (const shape of placed.refused) refused.add(shape);
    return placed.moved > 0 || refused.size > before;
  };
  const placeBegun = async () => {
    for (;;) {
      const head = await readyOfBegunJobs(ctx.db.direct, batchSize, [...refused]);
      if (!(await placeHead(head)) || head.length < batchSize) return;
    }
  };

  if (holdsJobsBack(closed)) await placeBegun();
  const wasOpen = !holdsJobsBack(closed);
  let after = top;
  for (let windows = 0; windows < maxWindows && !closed.fleet; ) {
    const except = { shapes: [...refused], users: closed.users, pipelines: closed.pipelines };
    const page = await readyHead(ctx.db.direct, { after, limit: batchSize, window: windowSize, except });
    const hasMoved = await placeHead(page.stages);
    // The page was full: more of the same window may be placed, now that its first are gone.
    if (hasMoved && page.stages.length === batchSize) continue;
    windows++;
    const deep = memory.deep;
    memory.deep = page.windowEnd;
    if (page.windowEnd === undefined) break;
    after = windows === 1 && deep && deep.rank > page.windowEnd.rank ? deep : page.windowEnd;
  }
  if (wasOpen && holdsJobsBack(closed)) await placeBegun();
};

const holdsJobsBack = (closed: ClosedGates): boolean =>
  closed.fleet || closed.users.length > 0 || closed.pipelines.length > 0;
