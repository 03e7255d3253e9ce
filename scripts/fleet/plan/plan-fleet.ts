// What --plan answers: for so many hosts and such arrivals the waits, the use of the hosts, the cost, the deadlines missed, and,
// when a target is named, how many hosts keep it. Pipelines and prices are the shipped ones.
import { dollarsFromMicros } from "@renderplane/proto/kernel/units.ts";
import { parse } from "yaml";
import { type Pipeline, parsePipeline, planStages } from "../../../control-plane/src/domain/pipeline.ts";
import { priceUsage } from "../../../control-plane/src/domain/pricing.ts";
import type { Complexity } from "../../../control-plane/src/domain/records.ts";
import { loadPipelines, loadPrices } from "../../../control-plane/src/load-data.ts";
import { benchPipelines } from "../bench-pipelines.ts";
import { type Quantiles, quantiles } from "../histogram.ts";
import type { Options } from "../options.ts";
import { profilesOf, type Scenario } from "../scenario.ts";
import { runPlan } from "./model.ts";
import type { PlanInput, PlanOutcome } from "./question.ts";

export type PlanReport = {
  readonly seed: number;
  readonly hosts: number;
  readonly jobs: PlanOutcome["jobs"];
  readonly stages: PlanOutcome["stages"];
  /** Seconds. */
  readonly jobWait: Quantiles;
  readonly stageWait: Quantiles;
  readonly jobTime: Quantiles;
  readonly longestQueue: number;
  readonly stagesPerSecond: number;
  /** 0..1 of what the hosts had. */
  readonly coresUsed: number;
  readonly gpusUsed: number;
  /** What the ledger would charge for compute, and what the hosts cost for their hours. */
  readonly computeDollars: number;
  readonly hostDollars: number;
  readonly events: number;
  readonly wallMs: number;
  /** Hosts for the target, with the wait they give; null: no target was named, or no number tried keeps it. */
  readonly needed: { readonly hosts: number; readonly p95Seconds: number } | null;
};

/** The search doubles up to this, then closes in; each try is a run of the whole day. */
const mostHosts = 200_000;

export const planFleet = async (options: Options, say: (text: string) => void): Promise<PlanReport> => {
  const input = await planInput(options, options.durationMs >= 12 * 3_600_000 ? "day" : "flat");
  const prices = await loadPrices(undefined);
  const began = performance.now();
  const outcome = runPlan(input);
  const wallMs = Math.round(performance.now() - began);
  say(`${outcome.events} events in ${(wallMs / 1000).toFixed(1)} s`);
  const usage = [
    { service: "cpu_compute", provider: "host", unit: "core_second", quantity: outcome.coreMs / 1000 },
    { service: "gpu_compute", provider: "host", unit: "gpu_second", quantity: outcome.gpuMs / 1000 },
  ];
  const charged = priceUsage(prices, usage, 0n).reduce((sum, line) => sum + line.micros, 0n);
  const spanMs = Math.max(input.durationMs, outcome.endMs);
  const hostDollars = profilesOf(input.scenario).reduce((sum, p) => sum + (p.dollarsPerHour * spanMs) / 3_600_000, 0);
  return {
    seed: input.scenario.seed,
    hosts: input.scenario.hosts,
    jobs: outcome.jobs,
    stages: outcome.stages,
    jobWait: quantiles(outcome.jobWait),
    stageWait: quantiles(outcome.stageWait),
    jobTime: quantiles(outcome.jobTime),
    longestQueue: outcome.longestQueue,
    stagesPerSecond: rounded(outcome.stages.succeeded / Math.max(0.001, outcome.endMs / 1000)),
    coresUsed: rounded(outcome.coreMs / Math.max(1, outcome.coreMsThere)),
    gpusUsed: rounded(outcome.gpuMs / Math.max(1, outcome.gpuMsThere)),
    computeDollars: dollarsFromMicros(charged),
    hostDollars: rounded(hostDollars),
    events: outcome.events,
    wallMs,
    needed: options.targetWaitMs === undefined ? null : hostsFor(input, options.targetWaitMs / 1000, say),
  };
};

export const planInput = async (options: Options, shape: PlanInput["shape"]): Promise<PlanInput> => {
  const pipeline = await pipelineNamed(options.pipeline);
  const request = pipeline.name === "narrated-video" ? { script: "This is a video." } : {};
  const planned = new Map(
    (["simple", "complex", "premium"] as const).map((c) => [c, planStages(pipeline, request, c)] as const),
  );
  return {
    scenario: options.scenario,
    stagesOf: (complexity: Complexity) => planned.get(complexity) ?? [],
    jobs: options.jobs,
    rate: options.rate,
    durationMs: options.durationMs,
    shape,
    deadlineMs: pipeline.target.seconds * 1000,
    maxRunningJobs: options.maxRunningJobs,
    heartbeatMs: options.heartbeatSeconds * 1000,
  };
};

const pipelineNamed = async (name: string): Promise<Pipeline> => {
  const own = benchPipelines[name];
  if (own !== undefined) return parsePipeline(parse(own), name);
  const shipped = await loadPipelines(undefined);
  const found = shipped.get(name);
  if (!found)
    throw new Error(
      `there is no pipeline ${name}; there are ${[...shipped.keys(), ...Object.keys(benchPipelines)].join(", ")}`,
    );
  return found;
};

/** The smallest number of hosts that keeps the 95th percentile of the wait, to five percent. */
const hostsFor = (input: PlanInput, seconds: number, say: (text: string) => void): PlanReport["needed"] => {
  const tryWith = (hosts: number) => {
    const scenario: Scenario = { ...input.scenario, hosts };
    const p95 = runPlan({ ...input, scenario }).jobWait.percentile(0.95);
    say(`${hosts} hosts: 95 % wait at most ${p95.toFixed(1)} s`);
    return p95;
  };
  let [low, high] = [0, Math.max(1, Math.ceil(input.scenario.hosts / 16))];
  let reached = tryWith(high);
  while (reached > seconds) {
    if (high >= mostHosts) return null;
    low = high;
    high = Math.min(mostHosts, high * 2);
    reached = tryWith(high);
  }
  while (high - low > Math.max(1, Math.floor(high / 20))) {
    const middle = Math.floor((low + high) / 2);
    const p95 = tryWith(middle);
    if (p95 <= seconds) {
      high = middle;
      reached = p95;
    } else low = middle;
  }
  return { hosts: high, p95Seconds: rounded(reached) };
};

const rounded = (x: number): number => Math.round(x * 1000) / 1000;
