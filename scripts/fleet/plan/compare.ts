// The model beside a real run of the same scenario: the same hosts, arrivals, durations and failures, once over gRPC and once as
// events. What differs is what the model leaves out; docs/capacity.md keeps the last comparison.
import type { Options } from "../options.ts";
import type { SimulationReport } from "../simulate.ts";
import { type PlanReport, planFleet } from "./plan-fleet.ts";

export type Comparison = {
  readonly rows: readonly {
    readonly what: string;
    readonly real: number;
    readonly model: number;
    /** The model's share above the real run's; null where the real one is 0. */
    readonly difference: number | null;
  }[];
  readonly plan: PlanReport;
};

export const compareWithPlan = async (
  options: Options,
  real: SimulationReport,
  say: (text: string) => void,
): Promise<Comparison> => {
  if (!real.facts) throw new Error("--check needs the database of the run: leave --server out");
  const { facts } = real;
  const plan = await planFleet(options, say);
  const pairs: readonly (readonly [string, number, number])[] = [
    ["jobs", real.submissions.accepted, plan.jobs.submitted],
    ["stages a second", facts.stagesPerSecond, plan.stagesPerSecond],
    ["wait of a job, p50 (s)", facts.jobWait.p50, plan.jobWait.p50],
    ["wait of a job, p95 (s)", facts.jobWait.p95, plan.jobWait.p95],
    ["wait of a stage, p50 (s)", facts.stageWait.p50, plan.stageWait.p50],
    ["wait of a stage, p95 (s)", facts.stageWait.p95, plan.stageWait.p95],
    ["time of a job, p50 (s)", facts.jobTime.p50, plan.jobTime.p50],
    ["time of a job, p95 (s)", facts.jobTime.p95, plan.jobTime.p95],
  ];
  const rows = pairs.map(([what, of, model]) => ({
    what,
    real: rounded(of),
    model: rounded(model),
    difference: of === 0 ? null : rounded(model / of - 1),
  }));
  say(tableOf(rows));
  return { rows, plan };
};

const tableOf = (rows: Comparison["rows"]): string =>
  [
    "| | real run | model | difference |",
    "| --- | --- | --- | --- |",
    ...rows.map(
      ({ what, real, model, difference }) =>
        `| ${what} | ${real} | ${model} | ${difference === null ? "" : `${(difference * 100).toFixed(1)} %`} |`,
    ),
  ].join("\n");

const rounded = (x: number): number => Math.round(x * 1000) / 1000;
