// The queue as older tools read it from Redis: `queue:priority` (sorted set, highest first, as they pop it), `queue:processing` (set) and
// `metrics:queue` (hash). PostgreSQL is the truth; this is an index that may be late, and that is written whole each time, so a
// Redis that lost everything is right again after one turn. Nothing is ever read from it but how far the counters have come.
import type { Lifetime } from "@renderplane/proto/kernel/process/lifecycle.ts";
import { type Logger, silentLogger } from "@renderplane/proto/kernel/process/logger.ts";
import { Redis } from "ioredis";

export const mirrorKeys = {
  queued: "queue:priority",
  processing: "queue:processing",
  counters: "metrics:queue",
} as const;
/** A Redis that hangs costs one turn this long. */
const commandMs = 1_000;
const maxRedialMs = 1_000;

export type QueueSnapshot = {
  /** Best place first. */
  readonly queued: readonly { readonly id: string; readonly rank: bigint }[];
  readonly processing: readonly string[];
};
export type CountedEvents = {
  /** Number of the last event that was counted before these, and of the last of these. */
  readonly after: bigint;
  readonly upTo: bigint;
  readonly enqueued: number;
  readonly processed: number;
  readonly failed: number;
};
export type QueueMirror = Lifetime & {
  /** False: Redis is not there. */
  isReachable(): boolean;
  write(snapshot: QueueSnapshot): Promise<void>;
  /** Number of the last event that the counters contain; 0 when Redis knows none. */
  countedUpTo(): Promise<bigint>;
  /** Adds to the counters, unless somebody else has counted on meanwhile. */
  count(events: CountedEvents): Promise<void>;
};

/** One step, so that a leader that was replaced while it slept counts nothing twice. */
const countOnce = `
if (redis.call('hget', KEYS[1], 'seq') or '0') ~= ARGV[1] then return 0 end
redis.call('hincrby', KEYS[1], 'total_enqueued', ARGV[3])
redis.call('hincrby', KEYS[1], 'total_processed', ARGV[4])
redis.call('hincrby', KEYS[1], 'total_failed', ARGV[5])
redis.call('hset', KEYS[1], 'seq', ARGV[2])
return 1`;

export const createQueueMirror = (options: { readonly url: string; readonly log?: Logger }): QueueMirror => {
  const log = options.log ?? silentLogger();
  const redis = new Redis(options.url, {
    lazyConnect: true,
    enableOfflineQueue: false,
    maxRetriesPerRequest: 0,
    commandTimeout: commandMs,
    retryStrategy: (times) => Math.min(50 * 2 ** Math.min(times, 10), maxRedialMs) + Math.random() * 50,
  });
  // Without a listener an error event ends the process; the bus says aloud that Redis is away.
  redis.on("error", (error) => log.debug({ err: error }, "the queue's mirror does not reach Redis"));
  return {
    name: "queue mirror",
    start: async () => {
      redis.connect().catch(() => {});
    },
    stop: async () => redis.disconnect(),
    isReachable: () => redis.status === "ready",
    write: async ({ queued, processing }) => {
      const whole = redis.multi().del(mirrorKeys.queued, mirrorKeys.processing);
      // Negative, because the smallest rank is the first and these tools take the highest score.
      if (queued.length > 0) whole.zadd(mirrorKeys.queued, ...queued.flatMap((job) => [String(-job.rank), job.id]));
      if (processing.length > 0) whole.sadd(mirrorKeys.processing, ...processing);
      whole.hset(mirrorKeys.counters, { queue_depth: queued.length, processing_count: processing.length });
      const answers = await whole.exec();
      const failed = answers?.find(([error]) => error !== null)?.[0];
      if (failed) throw failed;
    },
    countedUpTo: async () => BigInt((await redis.hget(mirrorKeys.counters, "seq")) ?? "0"),
    count: async (e) => {
      const numbers = [e.after, e.upTo, e.enqueued, e.processed, e.failed].map(String);
      await redis.eval(countOnce, 1, mirrorKeys.counters, ...numbers);
    },
  };
};
