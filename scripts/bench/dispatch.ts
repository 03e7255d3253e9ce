// How many stages a second go from the queue to their settlement with everything on: placement, lease, allocation, hold, offer over
// gRPC with mTLS, accept, start, end, charge, events. Stages do nothing; agents live in processes of their own. The queue is kept at
// its depth while it is measured. Measured at two depths, and at the larger one while an old snapshot keeps dead rows from being
// removed. In the same run graphile-worker does as many empty jobs in both of its configurations.
import { setTimeout as pause } from "node:timers/promises";
import { coreShare, useOf } from "../fleet/process-use.ts";
import { type Backlog, createBacklog } from "./backlog.ts";
import type { Bench, BenchOptions } from "./bed.ts";
import { until } from "./herd.ts";
import { type Load, onLoad } from "./load.ts";
import { createPeerDatabase, graphileRate } from "./peers.ts";

const sizes = {
  full: { depths: [10_000, 1_000_000], hosts: 200, warmUpMs: 10_000, windowMs: 30_000, peerJobs: 30_000 },
  small: { depths: [2_000, 10_000], hosts: 20, warmUpMs: 2_000, windowMs: 5_000, peerJobs: 2_000 },
};
const refillEveryMs = 100;
const firstEndLimitMs = 120_000;

type Row = { readonly what: string; readonly perSecond: number; readonly corePercent?: number };

export const dispatch: Bench = {
  name: "dispatch",
  run: async (say, signal, options) => {
    const size = options.isSmall ? sizes.small : sizes.full;
    const rows: Row[] = [];
    const note = (row: Row) => {
      rows.push(row);
      say(`${row.what}: ${row.perSecond.toFixed(0)}/s`);
    };
    for (const [i, depth] of size.depths.entries())
      await onLoad({ signal, ...profiling(options) }, async (load) => {
        const backlog = createBacklog(load.bed.sql);
        const began = performance.now();
        await backlog.add(depth, true);
        say(`${depth} stages are queued after ${((performance.now() - began) / 1000).toFixed(0)} s`);
        const agents = await load.addHosts(size.hosts, { processes: 2 });
        const isWorking = async () => agents.read().meter.value("applied") > 0;
        await until(isWorking, firstEndLimitMs, "a stage has ended", signal);
        note({ what: `${depth} queued`, ...(await measure(load, agents.read, backlog, size, signal)) });
        if (i !== size.depths.length - 1) return;
        const free = await holdSnapshot(load);
        try {
          note({ what: `${depth} queued, old snapshot`, ...(await measure(load, agents.read, backlog, size, signal)) });
        } finally {
          await free();
        }
        await agents.stop();
        for (const batched of [false, true]) {
          await createPeerDatabase(load.bed.sql, "peer_graphile");
          const perSecond = await graphileRate(load.bed.urlOf("peer_graphile"), size.peerJobs, batched);
          note({ what: `graphile-worker, ${batched ? "batched" : "unbatched"}, ${size.peerJobs} queued`, perSecond });
        }
      });
    const [shallow, deep, held, unbatched] = rows.map((row) => row.perSecond);
    const ratio = (a = 0, b = 1) => (a / b).toFixed(2);
    return {
      figures: rows,
      markdown: [
        `Stages that do nothing, from the queue to their settlement, through gRPC with mTLS to ${size.hosts} simulated hosts in other processes,`,
        `everything on. The queue is kept at its depth for ${size.windowMs / 1000} s. One control plane, embedded PostgreSQL with fsync.`,
        "Goals: above graphile-worker unbatched; 0.9 of the rate at the larger depth, 0.7 with the old snapshot.",
        "",
        "| what | a second | control plane (% of a core) |",
        "| --- | --- | --- |",
        ...rows.map((r) => `| ${r.what} | **${r.perSecond.toFixed(0)}** | ${r.corePercent?.toFixed(0) ?? ""} |`),
        "",
        `To graphile-worker unbatched ${ratio(shallow, unbatched)}; deep to shallow ${ratio(deep, shallow)}; with the snapshot ${ratio(held, shallow)}.`,
      ].join("\n"),
    };
  },
};

/** Ends that the control plane took in a window, while the queue is filled up again behind them. */
const measure = async (
  load: Load,
  read: () => { readonly meter: { value(counter: "applied"): number } },
  backlog: Backlog,
  size: (typeof sizes)["full"],
  signal: AbortSignal,
): Promise<{ readonly perSecond: number; readonly corePercent: number }> => {
  const applied = () => read().meter.value("applied");
  const first = applied();
  let refilled = 0;
  const refill = async (untilMs: number) => {
    const end = performance.now() + untilMs;
    while (performance.now() < end) {
      await pause(refillEveryMs, undefined, { signal });
      const gone = applied() - first - refilled;
      if (gone <= 0) continue;
      refilled += gone;
      await backlog.add(gone, false);
    }
  };
  await refill(size.warmUpMs);
  const pid = load.bed.replicas[0]?.pid() ?? 0;
  const [before, began, use] = [applied(), performance.now(), await useOf(pid)];
  await refill(size.windowMs);
  const seconds = (performance.now() - began) / 1000;
  return { perSecond: (applied() - before) / seconds, corePercent: coreShare(use, await useOf(pid)) };
};

/** A transaction that has looked and does not end: nothing that dies from now on can be removed. */
const holdSnapshot = async (load: Load): Promise<() => Promise<void>> => {
  let free: () => void = () => {};
  const held = new Promise<void>((resolve) => {
    free = resolve;
  });
  let looked: () => void = () => {};
  const ready = new Promise<void>((resolve) => {
    looked = resolve;
  });
  const over = load.bed.db.transaction(async (tx) => {
    await tx.query("set transaction isolation level repeatable read");
    await tx.query("set local idle_in_transaction_session_timeout = 0");
    await tx.query("select count(*) from hosts");
    looked();
    await held;
  });
  await Promise.race([ready, over]);
  return async () => {
    free();
    await over;
  };
};

/** `--profile DIR`: where the control plane spends its time, as a file that the browser's tools open. */
const profiling = ({ profileDir }: BenchOptions) =>
  profileDir === undefined ? {} : { nodeArgs: ["--cpu-prof", `--cpu-prof-dir=${profileDir}`] };
