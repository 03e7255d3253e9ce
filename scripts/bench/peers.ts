// The queues that this one is compared with, in the same run, on the same server and machine: graphile-worker, pg-boss and BullMQ,
// each with a job that does nothing. None of them holds money, allocations or leases with fences; that difference is the point.
import { EventEmitter } from "node:events";
import { Queue, Worker } from "bullmq";
import { Logger, makeWorkerUtils, run, runMigrations, runOnce } from "graphile-worker";
import { PgBoss } from "pg-boss";
import type { Tx } from "../../control-plane/src/store/database.ts";
import { createHistogram, type Histogram } from "../fleet/histogram.ts";

/** The configuration that its own documentation measures with. */
const concurrency = 10;
const silent = new Logger(() => () => {});

export const createPeerDatabase = async (sql: Tx, name: string): Promise<void> => {
  await sql.query(`drop database if exists ${name}`);
  await sql.query(`create database ${name}`);
};

/** Jobs a second from the start to the last completion. `batched`: fetches 500 at a time and completes in batches. */
export const graphileRate = async (url: string, jobs: number, batched: boolean): Promise<number> => {
  await runMigrations({ connectionString: url, logger: silent });
  const utils = await makeWorkerUtils({ connectionString: url, logger: silent });
  try {
    await utils.withPgClient((client) =>
      client.query(
        `select count(*) from (select graphile_worker.add_job('noop', '{}'::json) from generate_series(1, $1::int)) j`,
        [jobs],
      ),
    );
    await utils.withPgClient((client) => client.query("vacuum analyze"));
    const began = performance.now();
    await runOnce({
      connectionString: url,
      concurrency,
      maxPoolSize: concurrency + 2,
      noHandleSignals: true,
      logger: silent,
      taskList: { noop: async () => {} },
      ...(batched
        ? { preset: { worker: { localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 } } }
        : {}),
    });
    return jobs / ((performance.now() - began) / 1000);
  } finally {
    await utils.release();
  }
};

type Peer = {
  readonly add: (id: number) => Promise<unknown>;
  readonly stop: () => Promise<unknown>;
};
export type PeerLatency = { readonly name: string; readonly latency: Histogram };

/** From the call that adds a job to the start of its handler, one after another on an idle queue. */
export const peerLatencies = async (at: {
  readonly urlOf: (database: string) => string;
  readonly sql: Tx;
  readonly redisUrl: string;
  readonly jobs: number;
}): Promise<PeerLatency[]> => {
  const measured: PeerLatency[] = [];
  for (const [name, open] of Object.entries(openers)) {
    const database = `peer_${name.replaceAll("-", "_").toLowerCase()}`;
    await createPeerDatabase(at.sql, database);
    const started = new EventEmitter();
    const peer = await open(at.urlOf(database), at.redisUrl, (id) => void started.emit(`${id}`));
    const latency = createHistogram();
    try {
      for (let id = 0; id < at.jobs; id++) {
        const seen = new Promise<void>((resolve) => started.once(`${id}`, () => resolve()));
        const began = performance.now();
        await Promise.all([peer.add(id), seen]);
        // The first ones load code and fill caches.
        if (id >= at.jobs / 10) latency.record(performance.now() - began);
      }
    } finally {
      await peer.stop();
    }
    measured.push({ name, latency });
  }
  return measured;
};

type Open = (url: string, redisUrl: string, onStart: (id: number) => void) => Promise<Peer>;
const openers: Readonly<Record<string, Open>> = {
  "graphile-worker": async (connectionString, _, onStart) => {
    const runner = await run({
      connectionString,
      concurrency,
      noHandleSignals: true,
      logger: silent,
      taskList: { noop: async (payload) => onStart((payload as { id: number }).id) },
    });
    return { add: (id) => runner.addJob("noop", { id }), stop: () => runner.stop() };
  },
  "pg-boss": async (connectionString, _, onStart) => {
    const boss = new PgBoss({ connectionString, max: concurrency, useListenNotify: true });
    boss.on("error", () => {});
    await boss.start();
    await boss.createQueue("noop", { notify: true });
    // Woken by the server; the shortest pause between two looks that it allows is the floor.
    await boss.work<{ id: number }>("noop", { pollingIntervalSeconds: 0.5 }, async (jobs) => {
      for (const job of jobs) onStart(job.data.id);
    });
    return { add: (id) => boss.send("noop", { id }), stop: () => boss.stop({ graceful: false }) };
  },
  BullMQ: async (_, redisUrl, onStart) => {
    const { hostname: host, port } = new URL(redisUrl);
    const connection = { host, port: Number(port), maxRetriesPerRequest: null };
    const queue = new Queue<{ id: number }>("noop", { connection });
    const worker = new Worker<{ id: number }>("noop", async (job) => onStart(job.data.id), { connection, concurrency });
    await worker.waitUntilReady();
    return { add: (id) => queue.add("noop", { id }), stop: () => Promise.all([worker.close(), queue.close()]) };
  },
};
