// Where a stage may run: each filter by its reason, each scorer by what it prefers, and the rules that follow from several of them.
import { describe, expect, test } from "vitest";
import { hourlyPrices } from "./host-price.ts";
import { type Candidate, type FleetFacts, fleetFacts, judge, type Need, place, waitingReason } from "./placement.ts";
import { testHost as host, testNeed as need, testGpu } from "./testing-fleet.ts";

const gpuHost = (name: string, change: Parameters<typeof host>[2] = {}) =>
  host(name, { gpus: [testGpu(`GPU-${name}`)] }, change);
const gpu = (word: "preferred" | "required", cpuWithoutGpus = false) =>
  need({ gpu: word, gpuMemoryBytes: 1024, ...(cpuWithoutGpus ? { cpuWithoutGpus } : {}) });
const chosen = (n: Need, hosts: readonly Candidate[], facts: Partial<FleetFacts> = {}) =>
  place(n, hosts, fleetFacts(hosts, facts)).choice?.host;

describe("filters", () => {
  test.each<[string, Candidate, Need, string]>([
    [
      "online",
      host("a", {}, { replica: null, silentMs: 7_260_000 }),
      need(),
      "the host is offline; it was last seen 2 h 01 m 00 s ago",
    ],
    ["online", host("a", {}, { replica: null, lastSeenAt: null }), need(), "the host is offline and was never seen"],
    ["suspect", host("a", {}, { silentMs: 17_000 }), need(), "nothing was heard from it for 17.0 s"],
    [
      "intent",
      host("a", {}, { intent: "maintenance", intentReason: "new disk" }),
      need(),
      "the host is in maintenance: new disk",
    ],
    ["agent-draining", host("a", {}, { health: { is_draining: true } }), need(), "its agent takes no more offers"],
    ["tags", host("a", { tags: ["eu"] }), need({}, {}, { tags: ["eu", "nvme"] }), "it does not have the tag nvme"],
    ["provider", host("a"), need({}, {}, { providers: ["openai.chat"] }), "it is not configured for openai.chat"],
    ["gpu", host("a"), gpu("required"), "it has no GPU whose encoder works"],
    [
      "scratch",
      host("a", {}, { health: { scratch_free_bytes: 1024 } }),
      need(),
      "scratch disk: needs 1.0 GiB, 0.0 GiB free",
    ],
    ["fits", host("a", { tags: ["eu"] }), need({}, {}, { tags: ["eu"] }), "it has room"],
  ])("%s: %#", (rule, candidate, n, reason) => {
    const facts = fleetFacts([candidate], { suspectMs: 15_000 });
    expect(judge(n, candidate, facts)).toMatchObject({ rule, reason });
  });

  test("a host that failed the stage fits as the last resort, and it is said", () => {
    const avoided = need({}, { avoid: [{ hostId: "h_a", reason: "disk full" }] });
    expect(judge(avoided, host("a"))).toMatchObject({
      rule: "last-resort",
      reason: "it has room, but disk full: others go first",
    });
    // However much better it is in everything else.
    const best = gpuHost("a");
    expect(
      chosen({ ...gpu("preferred"), avoid: avoided.avoid }, [best, host("b", { cores: 1 }, { grade: "bad" })]),
    ).toBe("b");
  });

  test("of hosts that all had their chance the one whose turn was longest ago goes first", () => {
    const hosts = [host("a"), host("b"), host("c")];
    const avoid = (...names: string[]) => names.map((name) => ({ hostId: `h_${name}`, reason: "expired" }));
    expect(chosen(need({}, { avoid: avoid("a", "b", "c") }), hosts)).toBe("a");
    expect(chosen(need({}, { avoid: avoid("b", "c", "a") }), hosts)).toBe("b");
    expect(chosen(need({}, { avoid: avoid("b", "a") }), hosts)).toBe("c");
  });
});

describe("GPU work", () => {
  test("[S142] [S177] simple goes to a CPU, complex to a GPU, premium to a GPU or else a CPU", () => {
    const hosts = [host("cpu"), gpuHost("gpu")];
    const [simple, complex, premium] = [need(), gpu("required", true), gpu("preferred")];
    expect([simple, complex, premium].map((n) => chosen(n, hosts))).toEqual(["cpu", "gpu", "gpu"]);
    const full = { ...gpuHost("gpu"), held: [{ ...allocation, memoryBytes: 8 * 1024 ** 3 }] };
    expect([simple, complex, premium].map((n) => chosen(n, [host("cpu"), full]))).toEqual(["cpu", undefined, "cpu"]);
  });

  test("[S177] complex work does not wait for ever where no GPU works: a fleet of CPUs takes it", () => {
    const broken = host("broken", { gpus: [testGpu("GPU-1", { workingEncoders: [] })] });
    expect(chosen(gpu("required", true), [host("cpu"), broken])).toBe("broken");
    expect(chosen(gpu("required"), [host("cpu"), broken])).toBeUndefined();
    // A GPU host that is away for a moment is waited for, one that was gone for an hour is not.
    const away = (silentMs: number) => gpuHost("gpu", { replica: null, silentMs });
    expect(chosen(gpu("required", true), [host("cpu"), away(60_000)])).toBeUndefined();
    expect(chosen(gpu("required", true), [host("cpu"), away(3_700_000)])).toBe("cpu");
  });

  test("GPU hosts are kept for GPU work while it waits, unless nothing else can do the stage", () => {
    const full = { ...host("cpu"), held: [{ ...allocation, cores: 4 }] };
    const hosts = [full, gpuHost("gpu")];
    expect(chosen(need(), hosts)).toBe("gpu");
    expect(chosen(need(), hosts, { gpuWorkWaits: true })).toBeUndefined();
    expect(judge(need(), hosts[1] as Candidate, fleetFacts(hosts, { gpuWorkWaits: true }))).toMatchObject({
      rule: "keep-gpu",
      reason: "it is kept for GPU work, which waits",
    });
    expect(chosen(need(), [gpuHost("gpu")], { gpuWorkWaits: true })).toBe("gpu");
  });

  test("it spreads over the GPUs of a host and of the fleet", () => {
    const two = host("two", { gpus: [testGpu("GPU-1"), testGpu("GPU-2")] });
    const first = place(gpu("preferred"), [two]).choice?.allocation;
    expect(first?.gpuUuid).toBe("GPU-1");
    const busy = { ...two, held: first ? [first] : [] };
    expect(place(gpu("preferred"), [busy]).choice?.allocation.gpuUuid).toBe("GPU-2");
    const one = { ...gpuHost("a"), held: [{ ...allocation, cores: 0, gpuUuid: "GPU-a", encoderSessions: 1 }] };
    expect(chosen(gpu("preferred"), [one, gpuHost("b")])).toBe("b");
  });
});

describe("scorers", () => {
  test("the cheapest host, by its own price or that of the table; near a deadline the one that gives all the cores", () => {
    const dear = host("dear", { tags: ["usd-per-hour-4.5"] });
    const cheap = host("small-and-cheap", { cores: 1, tags: ["usd-per-hour-0.1"] });
    const hosts = [dear, cheap];
    expect(chosen(need({ cores: 3 }), hosts)).toBe("small-and-cheap");
    expect(chosen(need({ cores: 3 }, { msToDeadline: 3_600_000 }), hosts)).toBe("small-and-cheap");
    expect(chosen(need({ cores: 3 }, { msToDeadline: 100_000 }), hosts)).toBe("dear");
    const prices = hourlyPrices({
      version: 1,
      prices: [
        { service: "cpu_compute", unit: "core_second", per: 3600, price: 0.05 },
        { service: "gpu_compute", unit: "gpu_second", per: 300, price: 0.3 },
      ],
    });
    expect([prices.corePrice, Math.round(prices.gpuPrice * 1e6) / 1e6]).toEqual([0.05, 3.6]);
  });

  test("the host that has the inputs, then the healthier one, then the emptier one, then the first by name", () => {
    const hosts = [host("a"), host("b"), host("c")];
    expect(
      chosen(
        need(
          {},
          {
            local: new Map([
              ["h_b", 10],
              ["h_c", 1000],
            ]),
          },
        ),
        hosts,
      ),
    ).toBe("c");
    expect(chosen(need(), [host("a", {}, { grade: "degraded" }), host("b")])).toBe("b");
    expect(chosen(need(), [{ ...host("a"), held: [allocation] }, host("b")])).toBe("b");
    expect(chosen(need(), hosts)).toBe("a");
  });
});

test("what is written down while a stage waits does not change with every second of silence", () => {
  const away = host("a", {}, { replica: null, silentMs: 60_000 });
  const verdicts = (ms: number) => [judge(need(), { ...away, host: { ...away.host, silentMs: ms } })];
  expect(waitingReason(verdicts(60_000))).toEqual(waitingReason(verdicts(61_000)));
  expect(waitingReason([]).rule).toBe("no-host");
});

const allocation = { cores: 1, memoryBytes: 0, scratchBytes: 0, gpuUuid: "", gpuMemoryBytes: 0, encoderSessions: 0 };
