// The queue as an operator reads it: how deep, what runs, by lane, against which limits, and its head in exact order with what each
// place is made of. Reads only.
import type { ClosedGates } from "../domain/gates.ts";
import { type RankParts, rankParts } from "../domain/queue-order.ts";
import type { Complexity } from "../domain/records.ts";
import { type QueueView, queueHead, readQueue } from "../store/queue.ts";
import type { Context } from "./context.ts";
import { readGates } from "./explain-job.ts";

/** Jobs of the head that are shown. */
const headSize = 50;

export type QueueSight = QueueView & {
  readonly limits: {
    readonly depth: number;
    readonly jobs: number;
    readonly jobsPerUser: number;
    readonly pipelines: ReadonlyMap<string, number>;
    readonly providers: ReadonlyMap<string, number>;
  };
  /** Limits that are reached now. */
  readonly closed: ClosedGates;
  readonly head: readonly {
    readonly id: string;
    readonly pipeline: string;
    readonly userId: string;
    readonly channelId: string;
    readonly priority: number;
    readonly complexity: Complexity;
    readonly createdAt: Date;
    readonly notBefore: Date | null;
    readonly parts: RankParts;
  }[];
};

export const viewQueue = async (ctx: Context): Promise<QueueSight> => {
  const { direct } = ctx.db;
  const { concurrency, queueDepth } = ctx.settings;
  const limited = [...ctx.pipelines.values()].flatMap(({ name, max_running }) =>
    max_running === undefined ? [] : [[name, max_running] as const],
  );
  return {
    ...(await readQueue(direct)),
    limits: {
      depth: queueDepth,
      jobs: concurrency.jobs,
      jobsPerUser: concurrency.jobsPerUser,
      pipelines: new Map(limited),
      providers: concurrency.attemptsPerProvider,
    },
    closed: (await readGates(ctx)).closed(),
    head: (await queueHead(direct, headSize)).map((job) => ({ ...job, parts: rankParts(job) })),
  };
};
