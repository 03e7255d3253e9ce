// The control plane's own metrics: one registry a process part, never the library's global one. Counts of work come from
// events (from-events.ts), levels from the database at the moment of the scrape, requests from the HTTP edge.
// Invariant: no job, host or path in a label; a scrape answers even when the database does not.
import { jobStates, stageStates } from "@renderplane/proto/kernel/stage-state.ts";
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";
import type { EventRow } from "../domain/records.ts";
import { createEventMetrics } from "./from-events.ts";

/** Levels that a scrape reads. */
export type Levels = {
  readonly countJobs: () => Promise<readonly { readonly state: string; readonly count: number }[]>;
  readonly countStages: () => Promise<readonly { readonly state: string; readonly count: number }[]>;
};
export type RequestSeen = {
  /** The template of the route, never the path. */
  readonly endpoint: string;
  readonly method: string;
  readonly status: number;
  readonly seconds: number;
};
export type Metrics = {
  readonly contentType: string;
  text(): Promise<string>;
  /** For the replica that published them, and only for that one. */
  observeEvents(events: readonly EventRow[]): void;
  observeRequest(request: RequestSeen): void;
  /** SSE and WebSocket streams that are open at this replica. */
  setOpenStreams(count: number): void;
};

/** Streams and transfers last as long as their clients like; in a latency they would drown everything else. */
const untimed: readonly RegExp[] = [
  /\/events$/,
  /^\/artifacts\//,
  /\/artifacts\/:stage\/:name$/,
  /\/stream\//,
  /^\/metrics$/,
];
/** Methods that may become a label; a client can send any word. */
const methods = new Set(["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]);

export const createMetrics = (options: {
  readonly version: string;
  readonly stages: readonly string[];
  readonly levels: Levels;
}): Metrics => {
  const registry = new Registry();
  const registers = [registry];
  collectDefaultMetrics({ register: registry });
  const events = createEventMetrics(registry, options.stages);

  new Gauge({
    name: "pipeline_system_info",
    help: "1, with what this process is as labels",
    labelNames: ["version", "node_version"] as const,
    registers,
  }).set({ version: options.version, node_version: process.version }, 1);
  const jobs = new Gauge({
    name: "pipeline_jobs",
    help: "Jobs by state: queued is the depth of the queue; those that have ended count for a day from their submission",
    labelNames: ["state"] as const,
    registers,
  });
  const stages = new Gauge({
    name: "pipeline_stages",
    help: "Stages by state; ready is the depth of the queue",
    labelNames: ["state"] as const,
    registers,
  });
  const isUp = new Gauge({ name: "pipeline_store_up", help: "1 when the database answered this scrape", registers });
  const requests = new Counter({
    name: "pipeline_api_requests_total",
    help: "HTTP requests by route template",
    labelNames: ["endpoint", "method", "status"] as const,
    registers,
  });
  const latency = new Histogram({
    name: "pipeline_api_latency_seconds",
    help: "Time to answer, without streams and transfers",
    labelNames: ["endpoint", "method"] as const,
    buckets: [0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 2.5, 5],
    registers,
  });

  const openStreams = new Gauge({
    name: "pipeline_api_open_streams",
    help: "Open SSE and WebSocket streams",
    registers,
  });

  const readLevels = async () => {
    try {
      const [jobCounts, stageCounts] = await Promise.all([options.levels.countJobs(), options.levels.countStages()]);
      for (const state of jobStates) jobs.set({ state }, countOf(jobCounts, state));
      for (const state of stageStates) stages.set({ state }, countOf(stageCounts, state));
      isUp.set(1);
    } catch {
      // Old levels would look like facts: they disappear until the database answers again.
      jobs.reset();
      stages.reset();
      isUp.set(0);
    }
  };

  return {
    contentType: registry.contentType,
    text: async () => {
      await readLevels();
      return registry.metrics();
    },
    observeEvents: (seen) => {
      for (const event of seen) events.observe(event);
    },
    setOpenStreams: (count) => openStreams.set(count),
    observeRequest: ({ endpoint, method, status, seconds }) => {
      const verb = methods.has(method) ? method : "other";
      requests.inc({ endpoint, method: verb, status: String(status) });
      if (!untimed.some((pattern) => pattern.test(endpoint))) latency.observe({ endpoint, method: verb }, seconds);
    },
  };
};

const countOf = (counts: readonly { readonly state: string; readonly count: number }[], state: string): number =>
  counts.find((c) => c.state === state)?.count ?? 0;
