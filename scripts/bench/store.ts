// What the store alone can do: placement, accepts and ends through the real operations on a real database with fsync, without
// gRPC, agents or loops, as the edges call them: many rows a transaction, a few transactions at a time. Beside it the floor: the
// same server changing one row's state twice, in statements of fifty, with nothing else attached.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { defaultTimings } from "@renderplane/proto/kernel/limits.ts";
import { silentLogger } from "@renderplane/proto/kernel/process/logger.ts";
import { ulid } from "ulid";
import { createAddressSigner } from "../../control-plane/src/artifacts/address-signer.ts";
import { openArtifactFolder } from "../../control-plane/src/artifacts/folder.ts";
import { createMemoryBus } from "../../control-plane/src/bus/memory.ts";
import { inventoryRecord } from "../../control-plane/src/grpc/convert.ts";
import { openAuthority } from "../../control-plane/src/identity/authority.ts";
import { loadPipelines, loadPrices } from "../../control-plane/src/load-data.ts";
import { acceptOffers } from "../../control-plane/src/operations/accept-offer.ts";
import type { Context } from "../../control-plane/src/operations/context.ts";
import { finishAttempts } from "../../control-plane/src/operations/finish-attempt.ts";
import { placeStages } from "../../control-plane/src/operations/place-stages.ts";
import { takeOffersOf } from "../../control-plane/src/operations/take-offers.ts";
import type { Tx } from "../../control-plane/src/store/database.ts";
import { migrate } from "../../control-plane/src/store/migrate.ts";
import { connectPostgres, type PostgresAddress } from "../../control-plane/src/store/postgres.ts";
import { openFleetBed } from "../fleet/fleet-bed.ts";
import { defaultProfiles, hostName, inventoryOf } from "../fleet/scenario.ts";
import { createBacklog } from "./backlog.ts";
import type { Bench } from "./bed.ts";

const sizes = {
  full: { depth: 100_000, hosts: 160, rounds: 4, floorRows: 100_000 },
  small: { depth: 2_000, hosts: 10, rounds: 2, floorRows: 2_000 },
};
/** The batches of the edge, and as many at a time as two cores have use for. */
const batchSize = 200;
const atOnce = 4;
const floorBatch = 50;

export const store: Bench = {
  name: "store",
  run: async (say, signal, { isSmall }) => {
    const size = isSmall ? sizes.small : sizes.full;
    const bed = await openFleetBed({ replicas: 0, signal });
    const dir = await mkdtemp(join(tmpdir(), "renderplane-store-"));
    try {
      await migrate(bed.address, silentLogger());
      const ctx = await openContext(bed.address, dir);
      try {
        const hosts = await insertHosts(ctx.db.direct, size.hosts);
        await createBacklog(bed.sql).add(size.depth, true);
        const times = { place: 0, take: 0, accept: 0, finish: 0 };
        let stages = 0;
        for (let round = 0; round < size.rounds; round++) {
          signal.throwIfAborted();
          const done = await oneRound(ctx, hosts);
          stages += done.stages;
          for (const step of Object.keys(times) as (keyof typeof times)[]) times[step] += done.times[step];
          say(
            `round ${round + 1}: ${done.stages} stages, place ${done.times.place.toFixed(0)} ms, finish ${done.times.finish.toFixed(0)} ms`,
          );
        }
        const floor = await floorRate(bed.sql, size.floorRows);
        const rate = (ms: number) => Math.round((stages / ms) * 1000);
        const figures = {
          stages,
          placePerSecond: rate(times.place),
          takePerSecond: rate(times.take),
          acceptPerSecond: rate(times.accept),
          finishPerSecond: rate(times.finish),
          placeAndFinishPerSecond: rate(times.place + times.finish),
          allPerSecond: rate(times.place + times.take + times.accept + times.finish),
          floorPerSecond: Math.round(floor),
        };
        return { figures, markdown: pageOf(figures, size) };
      } finally {
        await ctx.bus.stop();
        await ctx.db.stop();
      }
    } finally {
      await rm(dir, { recursive: true, force: true });
      await bed.stop();
    }
  },
};

type Figures = { readonly [name: string]: number };
const pageOf = (f: Figures, size: (typeof sizes)["full"]): string =>
  [
    `${f.stages} stages of one-stage jobs at ${size.depth} queued, ${size.hosts} hosts, ${atOnce} transactions of at most ${batchSize} stages at a time,`,
    "each step after the other. Everything is written: attempt, lease, allocation, hold, charge, release, events, the end of the job.",
    "Goal: place and finish together at least 10,000 stages a second.",
    "",
    "| step | stages a second |",
    "| --- | --- |",
    `| place | ${f.placePerSecond} |`,
    `| take the offers | ${f.takePerSecond} |`,
    `| accept | ${f.acceptPerSecond} |`,
    `| finish | ${f.finishPerSecond} |`,
    `| place and finish | **${f.placeAndFinishPerSecond}** |`,
    `| all four | ${f.allPerSecond} |`,
    `| floor: claim and complete of bare rows, ${floorBatch} a statement | ${f.floorPerSecond} |`,
  ].join("\n");

type Session = { readonly hostId: string; readonly epoch: bigint };

/** Fills the hosts, starts everything, ends everything. */
export const oneRound = async (ctx: Context, hosts: readonly Session[]) => {
  const timed = async <T>(act: () => Promise<T>): Promise<readonly [T, number]> => {
    const began = performance.now();
    const value = await act();
    return [value, performance.now() - began];
  };
  const [, place] = await timed(() => placeStages(ctx));
  const [offers, take] = await timed(async () =>
    (
      await inBatches(hosts, async (part) => {
        const taken = await takeOffersOf(ctx, part);
        return taken.flatMap((list, i) =>
          Array.isArray(list) ? list.map((offer) => ({ ...(part[i] as Session), ...offer })) : [],
        );
      })
    ).flat(),
  );
  const [, accept] = await timed(() => inBatches(offers, (part) => acceptOffers(ctx, part)));
  const [, finish] = await timed(() =>
    inBatches(offers, (part) =>
      finishAttempts(
        ctx,
        part.map((offer) => ({
          attemptId: offer.attemptId,
          fence: offer.fence,
          hostId: offer.hostId,
          outcome: "succeeded" as const,
          result: { simulated: true },
          outputs: [],
          failure: null,
          usage: [],
        })),
      ),
    ),
  );
  return { stages: offers.length, times: { place, take, accept, finish } };
};

const inBatches = async <I, O>(items: readonly I[], act: (part: readonly I[]) => Promise<O>): Promise<O[]> => {
  const parts: I[][] = [];
  for (let i = 0; i < items.length; i += batchSize) parts.push(items.slice(i, i + batchSize));
  const answers: O[] = [];
  let next = 0;
  const lane = async () => {
    while (next < parts.length) {
      const at = next++;
      answers[at] = await act(parts[at] as I[]);
    }
  };
  await Promise.all(Array.from({ length: atOnce }, lane));
  return answers;
};

export const openContext = async (address: PostgresAddress, dir: string): Promise<Context> => {
  const db = connectPostgres({ ...address, applicationName: "bench", poolMax: atOnce + 2 });
  await db.start();
  const bus = createMemoryBus();
  await bus.start();
  return {
    db,
    bus,
    pipelines: await loadPipelines(undefined),
    prices: await loadPrices(undefined),
    // Nobody beats here: a lease that ran out in the middle would be measured, too.
    timings: { ...defaultTimings, offerMs: 3_600_000, leaseMs: 3_600_000, suspectMs: 3_600_000 },
    artifacts: await openArtifactFolder(join(dir, "artifacts")),
    signer: createAddressSigner({ baseUrl: () => "http://127.0.0.1:1", secret: Buffer.alloc(32) }),
    authority: (await openAuthority(undefined)).authority,
    replica: "bench",
    log: silentLogger(),
    newId: (prefix) => `${prefix}_${ulid()}`,
    settings: {
      queueDepth: 10_000_000,
      costLimits: { warning: 2_500_000n, critical: 2_800_000n, halt: 3_000_000n },
      concurrency: { jobs: 10_000_000, jobsPerUser: 10_000_000, attemptsPerProvider: new Map() },
    },
  };
};

/** Rows as an open session leaves them. */
export const insertHosts = async (sql: Tx, count: number): Promise<Session[]> => {
  const profile = { ...(defaultProfiles[0] as (typeof defaultProfiles)[number]), cores: 64, memoryGib: 256 };
  const rows = Array.from({ length: count }, (_, i) => ({
    id: `h_${ulid()}`,
    name: hostName(i),
    inventory: inventoryRecord(inventoryOf(profile, i, { providers: [] })),
  }));
  await sql.query(
    `insert into hosts (id, name, inventory, replica, epoch, last_seen_at)
     select h.id, h.name, h.inventory, 'bench', 1, clock_timestamp() from jsonb_to_recordset($1::jsonb) as h(id text, name text, inventory jsonb)`,
    [JSON.stringify(rows)],
  );
  return rows.map(({ id }) => ({ hostId: id, epoch: 1n }));
};

/** Rows a second through two changes of state, claimed with skip locked and completed by id. */
const floorRate = async (sql: Tx, rows: number): Promise<number> => {
  await sql.query(`create table floor (id bigint primary key, state text not null, at timestamptz)`);
  await sql.query(`create index floor_ready on floor (id) where state = 'ready'`);
  await sql.query(`insert into floor select n, 'ready', null from generate_series(1, $1::int) n`, [rows]);
  await sql.query(`vacuum analyze floor`);
  const began = performance.now();
  const lane = async () => {
    for (;;) {
      const claimed = await sql.query<{ id: bigint }>(
        `update floor set state = 'running' where id in (
           select id from floor where state = 'ready' order by id limit $1 for update skip locked) returning id`,
        [floorBatch],
      );
      if (claimed.rows.length === 0) return;
      await sql.query(`update floor set state = 'done', at = clock_timestamp() where id = any($1::bigint[])`, [
        claimed.rows.map((row) => row.id),
      ]);
    }
  };
  await Promise.all(Array.from({ length: atOnce }, lane));
  return rows / ((performance.now() - began) / 1000);
};
