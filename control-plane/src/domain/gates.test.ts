// What may run at once: the table of gates, the count of what a batch admits, and the bounds that no order of calls may pass.
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { ConcurrencyCounts } from "./concurrency.ts";
import { createGates, type GateLimits, type GateStage } from "./gates.ts";

const nothing: ConcurrencyCounts = {
  jobs: 0,
  byUser: new Map(),
  byPipeline: new Map(),
  byProvider: new Map(),
  offeredJobs: new Set(),
};
const limits: GateLimits = { jobs: 7, jobsPerUser: 100, attemptsPerProvider: new Map([["tts.openai", 2]]) };
const pipelines = new Map([
  ["free", {}],
  ["narrow", { max_running: 1 }],
]);
const stage = (jobId: string, change: Partial<GateStage> = {}): GateStage => ({
  jobId,
  jobHasBegun: false,
  userId: "u",
  pipeline: "free",
  providers: [],
  ...change,
});

describe("gates", () => {
  test("[S135] seven jobs are in work at once by default; the eighth waits and is told why", () => {
    const gates = createGates(limits, pipelines, nothing);
    for (let i = 0; i < 7; i++) expect(gates.admit(stage(`v${i}`))).toEqual({ ok: true });
    expect(gates.admit(stage("v7"))).toEqual({
      ok: false,
      rule: "fleet-jobs",
      reason: "7 jobs are in work, the limit is 7; it begins when one has ended",
    });
    expect(gates.closed().fleet).toBe(true);
  });

  test.each<[string, Partial<GateLimits>, Partial<ConcurrencyCounts>, Partial<GateStage>, string | undefined]>([
    ["a user's jobs", { jobsPerUser: 2 }, { byUser: new Map([["u", 2]]) }, {}, "user-jobs"],
    ["another user's", { jobsPerUser: 2 }, { byUser: new Map([["u", 2]]) }, { userId: "w" }, undefined],
    ["a pipeline's", {}, { byPipeline: new Map([["narrow", 1]]) }, { pipeline: "narrow" }, "pipeline-jobs"],
    ["a pipeline that is gone", {}, { byPipeline: new Map([["gone", 9]]) }, { pipeline: "gone" }, undefined],
    [
      "a provider's attempts",
      {},
      { byProvider: new Map([["tts.openai", 2]]) },
      { providers: ["tts.openai"] },
      "provider-attempts",
    ],
    ["a provider without a limit", {}, { byProvider: new Map([["x", 99]]) }, { providers: ["x"] }, undefined],
    ["a begun job of a full fleet", { jobs: 1 }, { jobs: 1 }, { jobHasBegun: true }, undefined],
    ["one whose first stage is offered", { jobs: 1 }, { jobs: 1, offeredJobs: new Set(["v"]) }, {}, undefined],
    [
      "a begun job, but its provider is full",
      {},
      { byProvider: new Map([["tts.openai", 2]]) },
      { jobHasBegun: true, providers: ["tts.openai"] },
      "provider-attempts",
    ],
  ])("%s", (_, limit, counts, change, rule) => {
    const gates = createGates({ ...limits, ...limit }, pipelines, { ...nothing, ...counts });
    const verdict = gates.admit(stage("v", change));
    expect(verdict.ok ? undefined : verdict.rule).toBe(rule);
  });

  test("two stages of one job count as one job, and the last withdrawal gives its place back", () => {
    const gates = createGates({ ...limits, jobs: 1 }, pipelines, nothing);
    const [one, two, other] = [stage("v"), stage("v", { providers: ["tts.openai"] }), stage("w")];
    expect([gates.admit(one).ok, gates.admit(two).ok, gates.admit(other).ok]).toEqual([true, true, false]);
    gates.withdraw(two);
    expect(gates.admit(other).ok).toBe(false);
    gates.withdraw(one);
    expect(gates.admit(other).ok).toBe(true);
    expect(gates.closed()).toEqual({ fleet: true, users: [], pipelines: [], providers: [] });
  });

  test("every gate has a sentence, whether it is open or not", () => {
    const views = createGates(limits, pipelines, { ...nothing, byPipeline: new Map([["narrow", 1]]) }).view(
      stage("v", { pipeline: "narrow", providers: ["tts.openai"] }),
    );
    expect(views.map((v) => [v.rule, v.verdict, v.reason])).toEqual([
      ["fleet-jobs", "open", "0 of 7 jobs are in work"],
      ["user-jobs", "open", "0 of 100 jobs of u are in work"],
      ["pipeline-jobs", "closed", "1 narrow jobs are in work, the limit is 1; it begins when one has ended"],
      ["provider-attempts", "open", "0 of 2 attempts that may use tts.openai are live"],
    ]);
  });

  test("no order of admissions and withdrawals passes a limit, and what is withdrawn can be admitted again", () => {
    const move = fc.record({
      job: fc.constantFrom("a", "b", "c", "d", "e"),
      isAdmit: fc.boolean(),
      provider: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(move, { maxLength: 60 }), (moves) => {
        const gates = createGates(
          { jobs: 3, jobsPerUser: 2, attemptsPerProvider: new Map([["p", 2]]) },
          pipelines,
          nothing,
        );
        const live: GateStage[] = [];
        for (const m of moves) {
          if (m.isAdmit) {
            const s = stage(m.job, { userId: m.job < "c" ? "u" : "w", providers: m.provider ? ["p"] : [] });
            if (gates.admit(s).ok) live.push(s);
          } else {
            const [s] = live.splice(0, 1);
            if (s) gates.withdraw(s);
          }
          const jobs = new Map(live.map((s) => [s.jobId, s.userId]));
          expect(jobs.size).toBeLessThanOrEqual(3);
          for (const user of ["u", "w"])
            expect([...jobs.values()].filter((u) => u === user).length).toBeLessThanOrEqual(2);
          expect(live.filter((s) => s.providers.length > 0).length).toBeLessThanOrEqual(2);
          expect(gates.closed().fleet).toBe(jobs.size === 3);
        }
      }),
    );
  });
});
