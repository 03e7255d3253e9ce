// How much may run at once: a table of gates that a stage passes before it looks for a host. Counts come in, what is admitted is
// counted on, so that a batch never passes a limit together. A job that has begun passes every gate of jobs: holding back half a
// video would cost money and room and help nobody. Refusals carry the rule, the limit and the sentence that `explain` shows.
import type { ConcurrencyCounts } from "./concurrency.ts";

export type GateLimits = {
  readonly jobs: number;
  readonly jobsPerUser: number;
  readonly attemptsPerProvider: ReadonlyMap<string, number>;
};
export type GateStage = {
  readonly jobId: string;
  readonly jobHasBegun: boolean;
  readonly userId: string;
  readonly pipeline: string;
  /** Of which its attempt may use any. */
  readonly providers: readonly string[];
};
export type GateVerdict =
  | { readonly ok: true }
  | { readonly ok: false; readonly rule: string; readonly reason: string };
export type GateView = {
  readonly rule: string;
  readonly verdict: "open" | "closed";
  readonly limit: number;
  readonly count: number;
  readonly reason: string;
};
/** What no stage of a job that has not begun can pass now; the head of the queue may be read without it. */
export type ClosedGates = {
  readonly fleet: boolean;
  readonly users: readonly string[];
  readonly pipelines: readonly string[];
  readonly providers: readonly string[];
};
export type Gates = {
  readonly admit: (stage: GateStage) => GateVerdict;
  /** Takes back what `admit` counted for this stage: it found no host, or its job has ended. */
  readonly withdraw: (stage: GateStage) => void;
  /** Every gate that this stage must pass, as it stands now; counts nothing. */
  readonly view: (stage: GateStage) => readonly GateView[];
  readonly closed: () => ClosedGates;
};

/** The one gate that does not depend on the job: only on what the stage needs. */
export const providerRule = "provider-attempts";

type Gate = {
  readonly rule: string;
  readonly limit: number;
  readonly count: number;
  readonly what: string;
};

export const createGates = (
  limits: GateLimits,
  pipelines: ReadonlyMap<string, { readonly max_running?: number | undefined }>,
  counts: ConcurrencyCounts,
): Gates => {
  let jobs = counts.jobs;
  const byUser = new Map(counts.byUser);
  const byPipeline = new Map(counts.byPipeline);
  const byProvider = new Map(counts.byProvider);
  /** Jobs that began in this batch, with the stages of them that were admitted. */
  const begun = new Map<string, number>();

  const hasBegun = (s: GateStage) => s.jobHasBegun || begun.has(s.jobId) || counts.offeredJobs.has(s.jobId);
  const jobGates = (s: GateStage): Gate[] => {
    const ofPipeline = pipelines.get(s.pipeline)?.max_running;
    return [
      { rule: "fleet-jobs", limit: limits.jobs, count: jobs, what: "jobs are in work" },
      {
        rule: "user-jobs",
        limit: limits.jobsPerUser,
        count: byUser.get(s.userId) ?? 0,
        what: `jobs of ${s.userId} are in work`,
      },
      ...(ofPipeline === undefined
        ? []
        : [
            {
              rule: "pipeline-jobs",
              limit: ofPipeline,
              count: byPipeline.get(s.pipeline) ?? 0,
              what: `${s.pipeline} jobs are in work`,
            },
          ]),
    ];
  };
  // Which of its providers an attempt will use only its host knows: each of them must have room, so that none is ever passed.
  const providerGates = (s: GateStage): Gate[] =>
    s.providers.flatMap((provider) => {
      const limit = limits.attemptsPerProvider.get(provider);
      return limit === undefined
        ? []
        : [
            {
              rule: providerRule,
              limit,
              count: byProvider.get(provider) ?? 0,
              what: `attempts that may use ${provider} are live`,
            },
          ];
    });
  const gatesOf = (s: GateStage): Gate[] => [...(hasBegun(s) ? [] : jobGates(s)), ...providerGates(s)];

  const countJob = (s: GateStage, by: number): void => {
    jobs += by;
    add(byUser, s.userId, by);
    add(byPipeline, s.pipeline, by);
  };
  return {
    admit: (s) => {
      const full = gatesOf(s).find(isFull);
      if (full) return { ok: false, rule: full.rule, reason: reasonOf(full) };
      const isOurs = begun.has(s.jobId);
      if (!hasBegun(s)) countJob(s, 1);
      if (isOurs || !(s.jobHasBegun || counts.offeredJobs.has(s.jobId))) add(begun, s.jobId, 1);
      for (const provider of s.providers) add(byProvider, provider, 1);
      return { ok: true };
    },
    withdraw: (s) => {
      for (const provider of s.providers) add(byProvider, provider, -1);
      const stages = begun.get(s.jobId);
      if (stages === undefined) return;
      if (stages > 1) begun.set(s.jobId, stages - 1);
      else {
        begun.delete(s.jobId);
        countJob(s, -1);
      }
    },
    view: (s) =>
      gatesOf(s).map((gate) => ({
        rule: gate.rule,
        verdict: isFull(gate) ? "closed" : "open",
        limit: gate.limit,
        count: gate.count,
        reason: reasonOf(gate),
      })),
    closed: () => ({
      fleet: jobs >= limits.jobs,
      users: keysAt(byUser, () => limits.jobsPerUser),
      pipelines: keysAt(byPipeline, (name) => pipelines.get(name)?.max_running),
      providers: [...limits.attemptsPerProvider].flatMap(([name, limit]) =>
        (byProvider.get(name) ?? 0) >= limit ? [name] : [],
      ),
    }),
  };
};

const isFull = (gate: Gate): boolean => gate.count >= gate.limit;
const reasonOf = (gate: Gate): string =>
  isFull(gate)
    ? `${gate.count} ${gate.what}, the limit is ${gate.limit}; it begins when one has ended`
    : `${gate.count} of ${gate.limit} ${gate.what}`;
const add = (map: Map<string, number>, key: string, by: number): void => {
  map.set(key, (map.get(key) ?? 0) + by);
};
const keysAt = (counts: ReadonlyMap<string, number>, limitOf: (key: string) => number | undefined): string[] =>
  [...counts].flatMap(([key, count]) => (count >= (limitOf(key) ?? Number.POSITIVE_INFINITY) ? [key] : []));
