// How long the system needs to go on after a part of it is gone: a host without power, an encoder that crashes, the replica that
// leads, Redis. Windows are those of the default heartbeat; every time is read from rows or from the offers that agents saw.
import { setTimeout as pause } from "node:timers/promises";
import type { Agents } from "../fleet/agents.ts";
import { createHistogram } from "../fleet/histogram.ts";
import type { Bench } from "./bed.ts";
import { until } from "./herd.ts";
import { type Load, onLoad } from "./load.ts";

const sizes = {
  full: { heartbeatSeconds: 5, hosts: 8, crashes: 10, redisMs: 10_000 },
  small: { heartbeatSeconds: 0.5, hosts: 4, crashes: 3, redisMs: 3_000 },
};
const longStageMs = 3_600_000;
const limitMs = 240_000;
/** The pause before the retry in the pipeline bench-retry. */
const backoffSeconds = 1;
const submitEveryMs = 100;

type Row = { readonly what: string; readonly goal: string; readonly seconds: number; readonly note: string };

export const failover: Bench = {
  name: "failover",
  run: async (say, signal, { isSmall }) => {
    const size = isSmall ? sizes.small : sizes.full;
    return onLoad({ signal, replicas: 2, redis: true, heartbeatSeconds: size.heartbeatSeconds }, async (load) => {
      const agents = await load.addHosts(size.hosts, { isTraced: true, processes: 2 });
      const rows: Row[] = [];
      for (const act of [hostLoss, encoderCrash, redisLoss, leaderChange]) {
        const row = await act(load, agents, size, signal);
        rows.push(row);
        say(`${row.what}: ${row.seconds.toFixed(2)} s ${row.note}`);
      }
      return {
        figures: { heartbeatSeconds: size.heartbeatSeconds, rows },
        markdown: [
          `Two replicas, PostgreSQL, Redis, heartbeat ${size.heartbeatSeconds} s, ${size.hosts} simulated hosts.`,
          "",
          "| what is gone | goal (s) | until it goes on (s) | |",
          "| --- | --- | --- | --- |",
          ...rows.map((r) => `| ${r.what} | ${r.goal} | **${r.seconds.toFixed(2)}** | ${r.note} |`),
        ].join("\n"),
      };
    });
  },
};

type Act = (load: Load, agents: Agents, size: (typeof sizes)["full"], signal: AbortSignal) => Promise<Row>;

const hostLoss: Act = async (load, agents, _, signal) => {
  behave(agents, longStageMs);
  const job = await submit(load, "bench-noop", signal);
  await until(
    async () => (await attemptsOf(load, job)).some((a) => a.state === "running"),
    limitMs,
    "the stage runs",
    signal,
  );
  const [first] = await attemptsOf(load, job);
  const lostAt = Date.now();
  agents.order({ order: "vanish", names: [first?.host ?? ""] });
  const isElsewhere = async () =>
    (await attemptsOf(load, job)).some((a) => a.state === "running" && a.host !== first?.host);
  await until(isElsewhere, limitMs, "the stage runs on another host", signal);
  const startedAt = (await attemptsOf(load, job)).at(-1)?.startedAt?.getTime() ?? Date.now();
  agents.order({ order: "comeBack", names: [first?.host ?? ""] });
  await end(load, job, signal);
  return {
    what: "a host, without a word",
    goal: "75",
    seconds: (startedAt - lostAt) / 1000,
    note: "to running elsewhere",
  };
};

const encoderCrash: Act = async (load, agents, { crashes }, signal) => {
  const times = createHistogram();
  for (let i = 0; i < crashes; i++) {
    behave(agents, 0, { crashed: 1 });
    const job = await submit(load, "bench-retry", signal);
    await until(async () => (await attemptsOf(load, job)).some((a) => a.endedAt !== null), limitMs, "a crash", signal);
    behave(agents, 0);
    const began = async () => (await attemptsOf(load, job)).find((a) => a.number === 2)?.startedAt;
    await until(async () => (await began()) != null, limitMs, "the retry runs", signal);
    const [first, second] = await attemptsOf(load, job);
    const ms = (second?.startedAt?.getTime() ?? 0) - (first?.endedAt?.getTime() ?? 0);
    times.record(ms / 1000 - backoffSeconds);
  }
  const note = `after its backoff of ${backoffSeconds} s; most of ${crashes}`;
  return { what: "an encoder (it crashes)", goal: "5", seconds: times.max(), note };
};

const redisLoss: Act = async (load, agents, { redisMs }, signal) => {
  behave(agents, 0);
  const usual = await gaps(load, agents, redisMs, signal);
  await load.bed.redis?.stop();
  const without = await gaps(load, agents, redisMs, signal);
  const note = `p50 ${usual.percentile(0.5).toFixed(0)} ms with it, ${without.percentile(0.5).toFixed(0)} ms without; none lost`;
  return { what: "Redis", goal: "0", seconds: Math.max(0, without.max() - usual.max()) / 1000, note };
};

const leaderChange: Act = async (load, agents, _, signal) => {
  behave(agents, 0);
  const holder = async () =>
    (await load.bed.sql.query<{ holder: string }>(`select holder from leaders where loop = 'placer'`)).rows[0]
      ?.holder ?? "";
  const before = await holder();
  const leader = load.bed.replicas.find((r) => before.startsWith(`${r.name}.`)) ?? load.bed.replicas[0];
  if (!leader) throw new Error("the bed has no replica");
  const lostAt = performance.now();
  await leader.end("SIGKILL");
  const since = () => (performance.now() - lostAt) / 1000;
  const survivor = load.bed.replicas.find((r) => r !== leader);
  const job = await submit(load, "bench-noop", signal, survivor?.url);
  await until(async () => (await holder()) !== before, limitMs, "another one leads", signal);
  const tookOver = since();
  const hasStarted = async () => (await attemptsOf(load, job)).some((a) => a.startedAt !== null);
  await until(hasStarted, limitMs, "a stage starts", signal);
  const seconds = since();
  await leader.start();
  const note = `to the next start of a stage; another one led after ${tookOver.toFixed(1)} s`;
  return { what: "the replica that leads (killed)", goal: "20", seconds, note };
};

const behave = (agents: Agents, ms: number, failures: { readonly crashed?: number } = {}) =>
  agents.order({ order: "behave", scenario: { durations: { kind: "fixed", ms }, failures } });

/** From submission to offer, one submission after another for a while. */
const gaps = async (load: Load, agents: Agents, forMs: number, signal: AbortSignal) => {
  const seen = new Map<string, number>();
  agents.onOffers((offers) => {
    for (const { jobId, atMs } of offers) if (!seen.has(jobId)) seen.set(jobId, atMs);
  });
  const sent = new Map<string, number>();
  const stop = performance.now() + forMs;
  while (performance.now() < stop) {
    const at = performance.timeOrigin + performance.now();
    sent.set(await submit(load, "bench-noop", signal), at);
    await pause(submitEveryMs, undefined, { signal });
  }
  await until(async () => [...sent.keys()].every((id) => seen.has(id)), limitMs, "every job was offered", signal);
  const times = createHistogram();
  for (const [id, at] of sent) times.record((seen.get(id) ?? 0) - at);
  return times;
};

const submit = async (
  load: Load,
  pipeline: string,
  signal: AbortSignal,
  url = load.bed.replicas[0]?.url,
): Promise<string> => {
  const response = await fetch(`${url}/api/v1/jobs`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ pipeline, request: {} }),
    signal,
  });
  const { id } = (await response.json()) as { id?: string };
  if (id === undefined) throw new Error(`a submission was answered with ${response.status}`);
  return id;
};

type Attempt = {
  readonly number: number;
  readonly state: string;
  readonly host: string;
  readonly startedAt: Date | null;
  readonly endedAt: Date | null;
};
const attemptsOf = async (load: Load, job: string): Promise<Attempt[]> =>
  (
    await load.bed.sql.query<Attempt>(
      `select a.number, a.state, h.name as host, a.started_at as "startedAt", a.ended_at as "endedAt"
       from attempts a join hosts h on h.id = a.host_id where a.job_id = $1 order by a.number`,
      [job],
    )
  ).rows;

const end = async (load: Load, job: string, signal: AbortSignal): Promise<void> => {
  await fetch(`${load.bed.replicas[0]?.url}/api/v1/jobs/${job}/cancel`, { method: "POST", signal });
  const isOver = async () =>
    (await load.bed.sql.query(`select 1 from jobs where id = $1 and ended_at is not null`, [job])).rowCount > 0;
  await until(isOver, limitMs, "the job is cancelled", signal);
};
