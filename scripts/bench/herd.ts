// A replica is gone and comes back, and all of its hosts with it: 1,000 agents, each with an attempt that goes on. How long until all
// have a session again, after a stop in order and after a kill, and whether a lease was lost by it.
import { setTimeout as pause } from "node:timers/promises";
import type { Tx } from "../../control-plane/src/store/database.ts";
import { createBacklog } from "./backlog.ts";
import type { Bench } from "./bed.ts";
import { onLoad } from "./load.ts";

const sizes = { full: { hosts: 1_000, processes: 2 }, small: { hosts: 40, processes: 1 } };
const stageMs = 3_600_000;
const runLimitMs = 120_000;
const returnLimitMs = 120_000;

export const herd: Bench = {
  name: "herd",
  run: async (say, signal, { isSmall }) => {
    const size = isSmall ? sizes.small : sizes.full;
    return onLoad({ signal }, async (load) => {
      const { bed } = load;
      const replica = bed.replicas[0];
      if (!replica) throw new Error("the bed has no replica");
      const agents = await load.addHosts(size.hosts, { stageMs, processes: size.processes });
      await createBacklog(bed.sql).add(size.hosts, false);
      await until(async () => (await running(bed.sql)) >= size.hosts, runLimitMs, "every stage runs", signal);
      const rows = [];
      for (const [what, word] of [
        ["stopped in order", "SIGTERM"],
        ["killed", "SIGKILL"],
      ] as const) {
        const fences = await fencesOf(bed.sql);
        const sessions = () => agents.read().meter.value("sessions");
        const before = sessions();
        const goneAt = performance.now();
        await replica.end(word);
        await replica.start();
        const readyAt = performance.now();
        await until(async () => sessions() >= before + size.hosts, returnLimitMs, "every host is back", signal);
        const backAt = performance.now();
        // Leases that are in danger are lost within their grace.
        await pause(2_000, undefined, { signal });
        const row = {
          what,
          fromReadySeconds: (backAt - readyAt) / 1000,
          fromGoneSeconds: (backAt - goneAt) / 1000,
          lost: await count(bed.sql, `select count(*)::int as n from attempts where outcome in ('lost', 'expired')`),
          isSameWork: (await fencesOf(bed.sql)) === fences,
          refused: agents.read().meter.value("refusedHellos"),
        };
        rows.push(row);
        say(`${what}: all back ${row.fromReadySeconds.toFixed(1)} s after it was ready, ${row.lost} leases lost`);
      }
      return {
        figures: rows,
        markdown: [
          `${size.hosts} agents with an attempt each, one replica that goes and comes back on the same address. Goal: all back within 5 s, no lease lost.`,
          "",
          "| the replica was | back after it is ready (s) | after it was gone (s) | leases lost | the same attempts run | connections sent away or failed |",
          "| --- | --- | --- | --- | --- | --- |",
          ...rows.map(
            (r) =>
              `| ${r.what} | **${r.fromReadySeconds.toFixed(1)}** | ${r.fromGoneSeconds.toFixed(1)} | ${r.lost} | ${r.isSameWork ? "yes" : "NO"} | ${r.refused} |`,
          ),
        ].join("\n"),
      };
    });
  },
};

const count = async (sql: Tx, text: string): Promise<number> => (await sql.query<{ n: number }>(text)).rows[0]?.n ?? 0;
const running = (sql: Tx) => count(sql, `select count(*)::int as n from attempts where state = 'running'`);
const fencesOf = async (sql: Tx): Promise<string> =>
  (
    await sql.query<{ text: string }>(
      `select string_agg(fence::text, ',' order by fence) as text from attempts where state = 'running'`,
    )
  ).rows[0]?.text ?? "";

/** Asks until it holds; throws with what was waited for. */
export const until = async (
  holds: () => Promise<boolean>,
  limitMs: number,
  what: string,
  signal: AbortSignal,
  everyMs = 50,
): Promise<void> => {
  const end = performance.now() + limitMs;
  while (!(await holds())) {
    if (performance.now() > end) throw new Error(`not within ${limitMs / 1000} s: ${what}`);
    await pause(everyMs, undefined, { signal });
  }
};
