// The model against what must be true of any model of this fleet, and its choice of hosts against placement itself.
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { parse } from "yaml";
import { parsePipeline, planStages } from "../../../control-plane/src/domain/pipeline.ts";
import { fleetFacts, place, scoreOf } from "../../../control-plane/src/domain/placement.ts";
import type { AllocationRecord } from "../../../control-plane/src/domain/records.ts";
import { testHost, testNeed } from "../../../control-plane/src/domain/testing-fleet.ts";
import { inventoryRecord } from "../../../control-plane/src/grpc/convert.ts";
import { benchPipelines } from "../bench-pipelines.ts";
import { defaultProfiles, defaultScenario, hostName, inventoryOf, profilesOf, type Scenario } from "../scenario.ts";
import { createHeap } from "./heap.ts";
import { runPlan } from "./model.ts";
import type { PlanInput } from "./question.ts";
import { createRoom, type Taken } from "./room.ts";

const gib = 1024 ** 3;
const noop = planStages(parsePipeline(parse(benchPipelines["bench-noop"] ?? ""), "noop"), {});
const one = { ...(defaultProfiles[0] as (typeof defaultProfiles)[number]), share: 1, cores: 64, memoryGib: 256 };

const input = (change: Partial<PlanInput> = {}, scenario: Partial<Scenario> = {}): PlanInput => ({
  scenario: { ...defaultScenario, hosts: 1, profiles: [one], durations: { kind: "fixed", ms: 1_000 }, ...scenario },
  stagesOf: () => noop,
  jobs: 100,
  rate: 0,
  durationMs: 60_000,
  shape: "flat",
  deadlineMs: 600_000,
  maxRunningJobs: Number.MAX_SAFE_INTEGER,
  heartbeatMs: 5_000,
  ...change,
});

test("a heap gives the smallest first and equal ones in their order", () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 0, max: 20 })), (keys) => {
      const heap = createHeap<number>();
      for (const [i, key] of keys.entries()) heap.push(key, i);
      const out = keys.map(() => heap.pop() as number);
      expect(out).toEqual(keys.map((_, i) => i).sort((a, b) => (keys[a] as number) - (keys[b] as number) || a - b));
      expect(heap.pop()).toBeUndefined();
    }),
  );
});

describe("the room of the model", () => {
  const need = fc.record({
    cores: fc.constantFrom(0.25, 1, 2, 3, 12),
    memory: fc.constantFrom(0.25, 1, 4),
    gpu: fc.constantFrom("none" as const, "preferred" as const, "required" as const),
  });

  test("gives the host that placement gives, or one as good, and never more than it has", () => {
    fc.assert(
      fc.property(fc.array(need, { maxLength: 40 }), fc.integer({ min: 1, max: 12 }), (needs, hosts) => {
        const scenario = { ...defaultScenario, hosts };
        const room = createRoom(profilesOf(scenario), scenario.providers);
        const candidates = room.hosts.map((host) =>
          testHost(hostName(host.index), inventoryRecord(inventoryOf(host.profile, host.index, scenario))),
        );
        for (const { cores, memory, gpu } of needs) {
          const gpuMemoryBytes = gpu === "none" ? 0 : gib;
          const asked = testNeed({ cores, memoryBytes: memory * gib, scratchBytes: gib, gpu, gpuMemoryBytes });
          const { choice } = place(asked, candidates);
          const facts = fleetFacts(candidates);
          const taken = room.take({ kind: asked.kind, spec: asked.spec });
          expect(taken === undefined).toBe(choice === undefined);
          if (!taken || !choice) continue;
          const ours = candidates[taken.host.index] as (typeof candidates)[number];
          const theirs = candidates.find((c) => c.host.id === choice.hostId) as typeof ours;
          // A bucket is a quarter of a core wide: hosts of one bucket count as equally empty.
          expect(scoreOf(asked, theirs, facts) - scoreOf(asked, ours, facts)).toBeLessThanOrEqual(0.25 / 8 + 1e-9);
          ours.held.push(heldBy(taken));
          const { host } = taken;
          expect(Math.min(host.cores, host.memory, host.scratch, ...host.gpuMemory)).toBeGreaterThanOrEqual(-1e-6);
        }
      }),
    );
  });
  const heldBy = (taken: Taken): AllocationRecord => ({
    cores: taken.cores,
    memoryBytes: taken.memory,
    scratchBytes: taken.scratch,
    gpuUuid: taken.gpu < 0 ? "" : `GPU-${hostName(taken.host.index)}-${taken.gpu}`,
    gpuMemoryBytes: taken.gpuMemory,
    encoderSessions: taken.gpu < 0 ? 0 : 1,
  });

  test("what was taken comes back whole, also over a loss of the host", () => {
    const room = createRoom([one], []);
    const spec = noop[0]?.spec as (typeof noop)[number]["spec"];
    const taken = Array.from({ length: 64 }, () => room.take({ kind: "noop", spec }));
    expect(room.take({ kind: "noop", spec })).toBeUndefined();
    for (const t of taken) room.give(t as Taken);
    expect(room.hosts[0]).toMatchObject({ cores: 64, attempts: 0 });
    room.down(room.hosts[0] as (typeof room.hosts)[number]);
    expect(room.take({ kind: "noop", spec })).toBeUndefined();
    room.up(room.hosts[0] as (typeof room.hosts)[number]);
    expect(room.take({ kind: "noop", spec })).toBeDefined();
  });
});

describe("the model", () => {
  test("work beyond the places of a host waits for the first ends", () => {
    const { jobs, jobWait, stages, coreMs } = runPlan(input({ jobs: 128 }));
    expect(jobs).toMatchObject({ submitted: 128, completed: 128, failed: 0 });
    expect(stages.succeeded).toBe(128);
    // 64 at once, 64 a second later.
    expect(jobWait.percentile(0.5)).toBeLessThan(0.1);
    expect(jobWait.percentile(0.51)).toBeGreaterThan(0.95);
    expect(jobWait.max()).toBeLessThan(1.1);
    expect(coreMs).toBeGreaterThanOrEqual(128 * 0.01 * 1_000);
  });

  test("a limit on jobs in work is kept", () => {
    const { jobs, jobWait } = runPlan(input({ jobs: 10, maxRunningJobs: 1 }));
    expect(jobs.completed).toBe(10);
    expect(jobWait.max()).toBeGreaterThan(9);
  });

  test("the same seed gives the same day, another one another day", () => {
    const of = (seed: number) => {
      const day = { rate: 20, jobs: 5_000, durationMs: 200_000 };
      const scenario: Partial<Scenario> = {
        seed,
        hosts: 5,
        durations: { kind: "lognormal", medianMs: 2_000, sigma: 0.6 },
        failures: { crashed: 0.05, input_corrupt: 0.01 },
        churn: { perHostHour: 200, awayMs: 5_000, silentShare: 0.5 },
      };
      const { jobWait, jobTime, stageWait, ...rest } = runPlan(input(day, scenario));
      return { ...rest, wait: jobWait.toJson(), time: jobTime.toJson() };
    };
    expect(of(1)).toEqual(of(1));
    expect(of(1)).not.toEqual(of(2));
    const { jobs, stages } = of(1);
    expect(jobs.completed + jobs.failed).toBe(jobs.submitted);
    expect(stages.failed).toBeGreaterThan(0);
    expect(stages.lost).toBeGreaterThan(0);
  });

  test("a class that is never tried again fails its job; one that is passes at the second try", () => {
    const fatal = runPlan(input({ jobs: 50 }, { failures: { input_corrupt: 1 } }));
    expect(fatal.jobs).toMatchObject({ completed: 0, failed: 50 });
    const passing = runPlan(input({ jobs: 400 }, { failures: { crashed: 0.2 } }));
    expect(passing.stages.failed).toBeGreaterThan(50);
    expect(passing.jobs.completed).toBeGreaterThan(390);
  });

  test("late jobs are counted, and more hosts make none late", () => {
    const busy = { jobs: 640, deadlineMs: 3_000 };
    expect(runPlan(input(busy)).jobs.late).toBeGreaterThan(300);
    expect(runPlan(input(busy, { hosts: 10 })).jobs.late).toBe(0);
  });
});
