// What hosts cost a replica that only keeps them: 500 to 5,000 simulated agents with mTLS and a heartbeat every five seconds, no
// jobs. CPU and memory of the control plane from /proc, round trips as the agents see them, statements as the database counts them.
import { setTimeout as pause } from "node:timers/promises";
import type { Tx } from "../../control-plane/src/store/database.ts";
import { createMeter } from "../fleet/meter.ts";
import { coreShare, useOf } from "../fleet/process-use.ts";
import type { Bench } from "./bed.ts";
import { onLoad } from "./load.ts";

const sizes = {
  full: { counts: [500, 1_000, 2_000, 5_000], settleMs: 20_000, windowMs: 60_000, heartbeatSeconds: 5 },
  small: { counts: [20, 40], settleMs: 1_000, windowMs: 5_000, heartbeatSeconds: 1 },
};
/** One process of agents serves so many, or it would be the limit. */
const perProcess = 1_250;

export const hosts: Bench = {
  name: "hosts",
  run: async (say, signal, { isSmall, profileDir }) => {
    const size = isSmall ? sizes.small : sizes.full;
    const nodeArgs = profileDir === undefined ? [] : ["--cpu-prof", `--cpu-prof-dir=${profileDir}`];
    return onLoad({ signal, heartbeatSeconds: size.heartbeatSeconds, nodeArgs }, async (load) => {
      const fleets = [];
      const rows = [];
      const pid = load.bed.replicas[0]?.pid() ?? 0;
      let there = 0;
      for (const count of size.counts) {
        const began = performance.now();
        fleets.push(await load.addHosts(count - there, { processes: Math.ceil((count - there) / perProcess) }));
        there = count;
        const connectSeconds = (performance.now() - began) / 1000;
        say(`${count} hosts are connected (${connectSeconds.toFixed(1)} s, certificates included)`);
        await pause(size.settleMs, undefined, { signal });
        for (const fleet of fleets) fleet.order({ order: "forgetTimings" });
        const [before, transactions] = [await useOf(pid), await transactionsOf(load.bed.sql)];
        await pause(size.windowMs, undefined, { signal });
        const [after, later] = [await useOf(pid), await transactionsOf(load.bed.sql)];
        const meter = createMeter();
        for (const fleet of fleets) meter.merge(fleet.read().meter.toJson({ open: 0, running: 0 }));
        const rtt = meter.histogram("rtt");
        const seconds = (after.atMs - before.atMs) / 1000;
        const row = {
          hosts: count,
          corePercent: coreShare(before, after),
          rssMb: after.rssBytes / 1e6,
          rttP50: rtt.percentile(0.5),
          rttP99: rtt.percentile(0.99),
          transactionsPerSecond: (later - transactions) / seconds,
        };
        rows.push(row);
        say(`${count} hosts: ${row.corePercent.toFixed(1)} % of a core, ${row.rssMb.toFixed(0)} MB`);
      }
      return {
        figures: rows,
        markdown: [
          `Simulated agents with mTLS and a heartbeat every ${size.heartbeatSeconds} s, no jobs, ${size.windowMs / 1000} s each. Heartbeats are acknowledged together,`,
          "four times a second, which is most of the round trip. Goal at 5,000: at most 35 % of a core and 800 MB; the database's load",
          "does not follow the number of hosts (autocommitted statements and transactions, from pg_stat_database).",
          "",
          "| hosts | CPU (% of a core) | RSS (MB) | heartbeat p50 (ms) | p99 (ms) | database (transactions/s) |",
          "| --- | --- | --- | --- | --- | --- |",
          ...rows.map(
            (r) =>
              `| ${r.hosts} | **${r.corePercent.toFixed(1)}** | ${r.rssMb.toFixed(0)} | ${r.rttP50.toFixed(0)} | ${r.rttP99.toFixed(0)} | ${r.transactionsPerSecond.toFixed(1)} |`,
          ),
        ].join("\n"),
      };
    });
  },
};

const transactionsOf = async (sql: Tx): Promise<number> =>
  (
    await sql.query<{ n: number }>(
      `select (xact_commit + xact_rollback)::float8 as n from pg_stat_database where datname = current_database()`,
    )
  ).rows[0]?.n ?? 0;
