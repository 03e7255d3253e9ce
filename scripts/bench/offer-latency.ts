// From the moment before a submission leaves the client to its offer at a simulated agent in another process, both on the wall
// clock of this machine: on an idle system, and while four fifths of the hosts' places are taken by work that comes and goes. Two
// replicas, PostgreSQL with fsync, Redis. Beside it the peers, from the call that adds a job to the start of its handler.
import { setTimeout as pause } from "node:timers/promises";
import type { Agents } from "../fleet/agents.ts";
import { submitJobs } from "../fleet/arrivals.ts";
import { createHistogram, type Histogram, quantiles } from "../fleet/histogram.ts";
import type { Bench } from "./bed.ts";
import { onLoad } from "./load.ts";
import { peerLatencies } from "./peers.ts";

const sizes = {
  full: { hosts: 20, jobs: 300, loadMs: 30_000, peerJobs: 300 },
  small: { hosts: 4, jobs: 20, loadMs: 5_000, peerJobs: 20 },
};
/** Long enough that nothing of the last job is still going on. */
const idleMs = 50;
/** Places of a host, and how long the load holds one: so many seconds that the rate stays one that HTTP serves easily. */
const placesPerHost = 64;
const loadShare = 0.8;
const loadStageMs = 12_800;

export const offerLatency: Bench = {
  name: "offer-latency",
  run: async (say, signal, { isSmall }) => {
    const size = isSmall ? sizes.small : sizes.full;
    return onLoad({ signal, replicas: 2, redis: true }, async (load) => {
      const { bed } = load;
      const agents = await load.addHosts(size.hosts, { isTraced: true });
      const urls = bed.replicas.map((replica) => replica.url);
      const trace = traceOf(agents);

      const submissions = { accepted: 0 };
      const idle = createHistogram();
      for (let i = 0; i < size.jobs; i++) {
        await pause(idleMs, undefined, { signal });
        const sentAt = performance.timeOrigin + performance.now();
        const response = await fetch(`${urls[i % urls.length]}/api/v1/jobs`, {
          method: "POST",
          headers: { "content-type": "application/json" },
          body: JSON.stringify({ pipeline: "bench-noop", request: {} }),
          signal,
        });
        const { id } = (await response.json()) as { id: string };
        const at = await trace.arrival(id, signal);
        submissions.accepted++;
        // The first ones load code and fill caches.
        if (i >= size.jobs / 10) idle.record(at - sentAt);
      }
      say(`idle: p50 ${idle.percentile(0.5).toFixed(1)} ms`);

      agents.order({ order: "behave", scenario: { durations: { kind: "fixed", ms: loadStageMs } } });
      const rate = (size.hosts * placesPerHost * loadShare) / (loadStageMs / 1000);
      const arrivals = {
        seed: 1,
        pipeline: "bench-noop",
        jobs: 1_000_000,
        rate,
        durationMs: loadStageMs + size.loadMs,
      };
      const load80 = submitJobs(arrivals, { urls, signal, keepsTimes: true });
      const fullAt = performance.timeOrigin + performance.now() + loadStageMs;
      await load80.done;
      await pause(1_000, undefined, { signal });
      const busy = createHistogram();
      for (const [id, sentAt] of load80.sentAt) {
        const at = trace.seen.get(id);
        // Only what came after the places had filled.
        if (at !== undefined && sentAt >= fullAt) busy.record(at - sentAt);
      }
      say(`80 % load, ${rate.toFixed(0)} jobs/s: p50 ${busy.percentile(0.5).toFixed(1)} ms`);
      await agents.stop();

      const peers = await peerLatencies({
        urlOf: bed.urlOf,
        sql: bed.sql,
        redisUrl: bed.redis?.url ?? "",
        jobs: size.peerJobs,
      });
      const rows: readonly (readonly [string, Histogram])[] = [
        ["idle", idle],
        [`80 % of the places taken, ${rate.toFixed(0)} jobs/s`, busy],
        ...peers.map(({ name, latency }) => [`${name}, added to started, idle`, latency] as const),
      ];
      return {
        figures: Object.fromEntries(rows.map(([name, h]) => [name, quantiles(h)])),
        markdown: [
          `Submission over HTTP to the offer at the agent, ${size.jobs} jobs one after another, then under load; ${size.hosts} hosts, two replicas,`,
          "PostgreSQL with fsync, Redis. Goal when idle: p50 at most 5 ms, p99 at most 20 ms.",
          "",
          "| what | jobs | p50 (ms) | p99 (ms) | most (ms) |",
          "| --- | --- | --- | --- | --- |",
          ...rows.map(([name, h]) => {
            const q = quantiles(h);
            return `| ${name} | ${q.count} | **${q.p50}** | ${q.p99} | ${q.max} |`;
          }),
        ].join("\n"),
      };
    });
  },
};

const arrivalLimitMs = 30_000;

/** When the offer of a job was at an agent, by the job's id. */
const traceOf = (agents: Agents) => {
  const seen = new Map<string, number>();
  const waiting = new Map<string, (atMs: number) => void>();
  agents.onOffers((offers) => {
    for (const { jobId, atMs } of offers) {
      if (!seen.has(jobId)) seen.set(jobId, atMs);
      waiting.get(jobId)?.(atMs);
      waiting.delete(jobId);
    }
  });
  return {
    seen,
    arrival: async (jobId: string, signal: AbortSignal): Promise<number> => {
      const known = seen.get(jobId);
      if (known !== undefined) return known;
      const late = new AbortController();
      const stop = AbortSignal.any([signal, late.signal]);
      try {
        return await Promise.race([
          new Promise<number>((resolve) => waiting.set(jobId, resolve)),
          pause(arrivalLimitMs, undefined, { signal: stop }).then(() => {
            throw new Error(`no offer of ${jobId} arrived within ${arrivalLimitMs / 1000} s`);
          }),
        ]);
      } finally {
        late.abort();
      }
    },
  };
};
