// The pure decisions: money, recovery, placement, leases, the derived job state. Tables first, properties where a rule must be total.
import { failureClasses } from "@renderplane/proto/kernel/failure.ts";
import { attemptOutcomes, isLeased, stageStates } from "@renderplane/proto/kernel/stage-state.ts";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { admitHold, crossed } from "./budget.ts";
import { deriveJobState, jobProgress, stagePercent } from "./job.ts";
import { judgeHeld } from "./lease.ts";
import { type Candidate, judge, place } from "./placement.ts";
import { type PriceTable, priceUsage } from "./pricing.ts";
import type { HostRow, StageSpec } from "./records.ts";
import { type RecoveryFacts, recover, recoveryRules } from "./recovery.ts";

describe("budget", () => {
  const job = { spentMicros: 2_000_000n, heldMicros: 600_000n, haltMicros: 3_000_000n };
  test("[S152] a stage whose estimate would pass the limit is not begun, and the sentence names it", () => {
    expect(admitHold(job, "video_rendering", 400_000n)).toEqual({ ok: true, rule: "within-limit" });
    const refused = admitHold(job, "video_rendering", 400_001n);
    expect(refused.ok ? "" : refused.reason).toMatch(
      /^Cost limit exceeded at video_rendering: \$2\.00 spent, \$0\.60 reserved/,
    );
  });
  test("a threshold is reported when it is reached, and once", () => {
    const limits = { warning: 2_500_000n, critical: 2_800_000n, halt: 3_000_000n };
    expect(crossed(limits, 2_400_000n, 2_500_000n)).toEqual(["warning"]);
    expect(crossed(limits, 2_500_000n, 2_600_000n)).toEqual([]);
    expect(crossed(limits, 0n, 5_000_000n)).toEqual(["warning", "critical", "halt"]);
  });
});

describe("pricing", () => {
  const table: PriceTable = {
    version: 1,
    prices: [
      { service: "openai", unit: "token", per: 1000, price: 0.002 },
      { service: "tts", provider: "espeak", unit: "character", per: 1000, price: 0 },
    ],
  };
  test("tokens / 1000 x 0.002, in whole micro-dollars", () => {
    expect(
      priceUsage(table, [{ service: "openai", provider: "openai", unit: "token", quantity: 1234 }], 400_000n).map(
        (l) => l.micros,
      ),
    ).toEqual([2_468n]);
  });
  test("what nobody priced is charged at the estimate, once; what is priced at nothing is free", () => {
    const lines = priceUsage(
      table,
      [
        { service: "tts", provider: "openai", unit: "character", quantity: 900 },
        { service: "media_api", provider: "pexels", unit: "request", quantity: 2 },
        { service: "tts", provider: "espeak", unit: "character", quantity: 900 },
      ],
      200_000n,
    );
    expect(lines.map((l) => l.micros)).toEqual([200_000n, 0n, 0n]);
  });
  test("no use, negative or endless quantities cost nothing", () => {
    for (const quantity of [0, -5, Number.NaN, Number.POSITIVE_INFINITY])
      expect(priceUsage(table, [{ service: "x", provider: "", unit: "y", quantity }], 9n)).toEqual([]);
  });
});

describe("recovery", () => {
  const facts: RecoveryFacts = {
    outcome: "failed",
    failureClass: "timeout",
    tries: 1,
    retries: 2,
    backoffMs: 5000,
    isCancelling: false,
    wasSent: true,
    uncounted: 0,
  };
  test("[S153] a stage that ran out of time is tried again after 5 s, not passed over", () => {
    expect(recover(facts)).toEqual({ action: "retry", rule: "retry", delayMs: 5000, avoidHost: false });
  });
  test.each<[Partial<RecoveryFacts>, string, number | undefined]>([
    [{ tries: 2 }, "retry", 10_000],
    [{ tries: 3 }, "tries-used-up", undefined],
    [{ tries: 12, retries: 20 }, "retry", 300_000],
    [{ failureClass: "input_corrupt" }, "not-retryable", undefined],
    [{ failureClass: "disk_full" }, "retry-elsewhere", 5000],
    [{ outcome: "lost", failureClass: "host_lost" }, "lost-host", 0],
    [{ outcome: "refused", failureClass: "", tries: 0, uncounted: 2 }, "refused", 4000],
    [{ outcome: "refused", failureClass: "agent_bug", tries: 0, uncounted: 1 }, "refused", 2000],
    [{ outcome: "refused", failureClass: "agent_bug", tries: 0, uncounted: 2 }, "offer-unreadable", undefined],
    [{ outcome: "interrupted", failureClass: "", tries: 0 }, "interrupted", 0],
    [{ outcome: "expired", failureClass: "", tries: 0 }, "offer-expired", 1000],
    [{ outcome: "expired", failureClass: "", tries: 0, wasSent: false }, "offer-not-sent", 0],
    [{ isCancelling: true }, "cancel-wins", undefined],
    [{ failureClass: "a word from the future" }, "retry", 5000],
  ])("%j fires %s", (change, rule, delayMs) => {
    const verdict = recover({ ...facts, ...change });
    expect(verdict.rule).toBe(rule);
    expect("delayMs" in verdict ? verdict.delayMs : undefined).toBe(delayMs);
  });
  test("is total, and never tries more often than the pipeline allows", () => {
    fc.assert(
      fc.property(
        fc.record({
          outcome: fc.constantFrom(...attemptOutcomes.filter((o) => o !== "succeeded")),
          failureClass: fc.constantFrom(...Object.keys(failureClasses), "", "nonsense"),
          tries: fc.nat(30),
          retries: fc.nat(20),
          backoffMs: fc.nat(600_000),
          isCancelling: fc.boolean(),
          wasSent: fc.boolean(),
          uncounted: fc.nat(100),
        }),
        (f) => {
          const verdict = recover(f as RecoveryFacts);
          expect(recoveryRules.map((r) => r.name)).toContain(verdict.rule);
          if (verdict.action === "retry") expect(f.tries).toBeLessThanOrEqual(f.retries);
          if ("delayMs" in verdict) expect(verdict.delayMs).toBeLessThanOrEqual(300_000);
        },
      ),
    );
  });
});

const spec: StageSpec = {
  needs: [],
  uploads: false,
  params: {},
  timeoutMs: 1000,
  retries: 0,
  backoffMs: 1,
  providers: [],
  resources: { cores: 2, memoryBytes: 1024 ** 3, scratchBytes: 1024 ** 3, gpu: "none", gpuMemoryBytes: 0 },
};
const gpu = {
  uuid: "GPU-1",
  name: "G",
  memoryBytes: 8 * 1024 ** 3,
  driverVersion: "1",
  workingEncoders: ["h264_nvenc"],
};
const host = (
  name: string,
  change: Partial<HostRow> = {},
  inventory: Partial<HostRow["inventory"]> = {},
): Candidate & { held: never[] } => ({
  host: {
    id: `h_${name}`,
    name,
    intent: "open",
    intentReason: "",
    drainUntil: null,
    pool: "default",
    silentMs: 0,
    grade: "good",
    instanceId: "",
    agentVersion: "1",
    epoch: 1n,
    replica: "main",
    health: {},
    lastSeenAt: null,
    createdAt: new Date(0),
    inventory: {
      hostname: name,
      os: "",
      arch: "",
      cpuModel: "",
      cores: 4,
      memoryBytes: 4 * 1024 ** 3,
      scratchBytes: 10 * 1024 ** 3,
      gpus: [],
      ffmpegVersion: "5.1",
      workingEncoders: [],
      stageKinds: ["render"],
      providers: [],
      ...inventory,
    },
    ...change,
  },
  held: [],
});
const need = { kind: "render", spec, avoid: [] };

describe("placement", () => {
  test.each<[Candidate, string]>([
    [host("a"), "fits"],
    [host("a", { replica: null }), "online"],
    [host("a", { intent: "draining" }), "intent"],
    [host("a", {}, { stageKinds: ["script"] }), "kind"],
    [
      {
        ...host("a"),
        held: [{ cores: 3, memoryBytes: 0, scratchBytes: 0, gpuUuid: "", gpuMemoryBytes: 0, encoderSessions: 0 }],
      },
      "cores",
    ],
    [
      {
        ...host("a"),
        held: Array.from({ length: 64 }, () => ({
          cores: 0,
          memoryBytes: 0,
          scratchBytes: 0,
          gpuUuid: "",
          gpuMemoryBytes: 0,
          encoderSessions: 0,
        })),
      },
      "attempts",
    ],
    [host("a", {}, { memoryBytes: 1024 }), "memory"],
    [host("a", {}, { scratchBytes: 1024 }), "scratch"],
  ])("a reason for every host: %#", (candidate, rule) => {
    const verdict = judge(need, candidate);
    expect(verdict.rule).toBe(rule);
    expect(verdict.reason.length).toBeGreaterThan(5);
  });
  test("a host smaller than the need takes it with all its cores", () => {
    const small = host("small", {}, { cores: 1 });
    expect(place(need, [small]).choice?.allocation.cores).toBe(1);
  });
  test("a stage that prefers a GPU goes to one whose encoder works, and others keep off it", () => {
    const hosts = [
      host("cpu"),
      host("gpu", {}, { gpus: [gpu] }),
      host("h100", {}, { gpus: [{ ...gpu, workingEncoders: [] }] }),
    ];
    const prefers = {
      ...need,
      spec: { ...spec, resources: { ...spec.resources, gpu: "preferred" as const, gpuMemoryBytes: 1024 } },
    };
    expect(place(prefers, hosts).choice).toMatchObject({ hostId: "h_gpu", allocation: { gpuUuid: "GPU-1" } });
    expect(place(need, hosts).choice?.hostId).toBe("h_cpu");
    const requires = {
      ...need,
      spec: { ...spec, resources: { ...spec.resources, gpu: "required" as const, gpuMemoryBytes: 1024 } },
    };
    expect(place(requires, [hosts[0] as Candidate, hosts[2] as Candidate]).choice).toBeUndefined();
  });
  test("a host that failed the stage is the last resort, not forbidden", () => {
    const avoided = { ...need, avoid: [{ hostId: "h_a", reason: "disk full" }] };
    expect(place(avoided, [host("a"), host("b")]).choice?.hostId).toBe("h_b");
    expect(place(avoided, [host("a")]).choice?.hostId).toBe("h_a");
  });
});

describe("a lease after a reconnect", () => {
  const known = { fence: 7n, state: "running", outcome: null } as const;
  test.each([
    [7n, "running", known, "continue"],
    [7n, "ended", known, "report"],
    [6n, "running", known, "abandon"],
    [7n, "running", { ...known, state: "ended", outcome: "lost" }, "abandon"],
    [7n, "running", undefined, "abandon"],
  ] as const)("fence %s, %s: %s", (fence, state, row, action) => {
    expect(judgeHeld({ attemptId: "a", fence, state }, row).action).toBe(action);
  });
});

describe("the job's state", () => {
  test("[S133] every combination of stage states is one of the five words, and it is final only when no host works for it", () => {
    fc.assert(
      fc.property(
        fc.array(fc.constantFrom(...stageStates), { minLength: 1, maxLength: 8 }),
        fc.boolean(),
        (states, hasBegun) => {
          const state = deriveJobState(states, hasBegun);
          expect(["queued", "processing", "completed", "failed", "cancelled"]).toContain(state);
          if (states.some(isLeased)) expect(state).toBe("processing");
          if (state === "completed") expect(new Set(states)).toEqual(new Set(["succeeded"]));
        },
      ),
    );
    expect(deriveJobState(["succeeded", "failed", "skipped"], true)).toBe("failed");
    expect(deriveJobState(["succeeded", "cancelled", "cancelled"], true)).toBe("cancelled");
    expect(deriveJobState(["ready", "pending"], false)).toBe("queued");
  });
  test("progress is the share of stages done after each, and moves inside a stage", () => {
    expect(stagePercent(["succeeded", "running", "pending", "pending"])).toBe(25);
    expect(
      jobProgress([
        { state: "succeeded", weight: 100, fraction: 0 },
        { state: "running", weight: 300, fraction: 0.5 },
      ]),
    ).toBe(0.625);
    expect(jobProgress([{ state: "running", weight: 1, fraction: Number.NaN }])).toBe(0);
  });
});
