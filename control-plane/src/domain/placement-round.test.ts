// A round gives every stage what placing it alone would have given: the same host, never more than a host has, the same for the
// same input, and what is undone is free again.
import fc from "fast-check";
import { expect, test } from "vitest";
import { type Candidate, type Choice, fleetFacts, type Need, place } from "./placement.ts";
import { createRound } from "./placement-round.ts";
import { testGpu, testHost, testNeed } from "./testing-fleet.ts";

const gib = 1024 ** 3;
const hostArb = fc.record({
  cores: fc.integer({ min: 1, max: 8 }),
  memory: fc.integer({ min: 1, max: 8 }),
  gpus: fc.array(fc.record({ memory: fc.integer({ min: 1, max: 24 }), works: fc.boolean() }), { maxLength: 2 }),
  isOnline: fc.boolean(),
  price: fc.constantFrom<string[]>([], ["usd-per-hour-1"], ["usd-per-hour-0.2"]),
});
const needArb = fc.record({
  cores: fc.constantFrom(0.5, 1, 3),
  memory: fc.constantFrom(1, 2),
  gpu: fc.constantFrom("none", "preferred", "required", "expected"),
  avoid: fc.subarray(["h_0", "h_1", "h_2"]),
  local: fc.subarray(["h_1", "h_3"]),
  isUrgent: fc.boolean(),
  /** Undo an earlier choice before it. */
  undo: fc.option(fc.nat(20)),
});
const hostsOf = (facts: readonly (typeof hostArb extends fc.Arbitrary<infer T> ? T : never)[]): Candidate[] =>
  facts.map((f, i) =>
    testHost(
      `${i}`,
      {
        cores: f.cores,
        memoryBytes: f.memory * gib,
        tags: f.price,
        gpus: f.gpus.map((g, n) =>
          testGpu(`GPU-${i}-${n}`, { memoryBytes: g.memory * gib, workingEncoders: g.works ? ["h264_nvenc"] : [] }),
        ),
      },
      { replica: f.isOnline ? "main" : null },
    ),
  );
const needOf = (n: typeof needArb extends fc.Arbitrary<infer T> ? T : never): Need =>
  testNeed(
    {
      cores: n.cores,
      memoryBytes: n.memory * gib,
      gpu: n.gpu === "expected" ? "required" : n.gpu,
      gpuMemoryBytes: n.gpu === "none" ? 0 : gib,
      ...(n.gpu === "expected" ? { cpuWithoutGpus: true } : {}),
    },
    {
      avoid: n.avoid.map((hostId) => ({ hostId, reason: "failed" })),
      local: new Map(n.local.map((hostId, i) => [hostId, (i + 1) * 100])),
      ...(n.isUrgent ? { msToDeadline: 1 } : {}),
    },
  );

test("a round answers what placing one after the other answers, never over capacity, with undo", () => {
  fc.assert(
    fc.property(
      fc.array(hostArb, { minLength: 1, maxLength: 6 }),
      fc.array(needArb, { minLength: 1, maxLength: 25 }),
      (hostFacts, needFacts) => {
        const hosts = hostsOf(hostFacts);
        const fleet = fleetFacts(hosts);
        // The reference keeps its own books and judges every host anew for every stage.
        const books = hosts.map(({ host }) => ({ host, held: [] as Choice["allocation"][] }));
        const round = createRound(hosts);
        const given: Choice[] = [];
        for (const facts of needFacts) {
          const undone = facts.undo === null ? undefined : given.splice(facts.undo % Math.max(1, given.length), 1)[0];
          if (undone) {
            round.undo(undone);
            const held = books.find((b) => b.host.id === undone.hostId)?.held ?? [];
            held.splice(
              held.findIndex((a) => JSON.stringify(a) === JSON.stringify(undone.allocation)),
              1,
            );
          }
          const need = needOf(facts);
          const expected = place(need, books, fleet);
          const placed = round.place(need);
          if (placed.choice === undefined) expect(placed.verdicts()).toEqual(expected.verdicts);
          expect(placed.choice).toEqual(expected.choice);
          if (placed.choice) {
            given.push(placed.choice);
            books.find((b) => b.host.id === placed.choice?.hostId)?.held.push(placed.choice.allocation);
          }
        }
        for (const { host, held } of books) {
          const sum = (of: (a: Choice["allocation"]) => number) => held.reduce((total, a) => total + of(a), 0);
          expect(sum((a) => a.cores)).toBeLessThanOrEqual(host.inventory.cores + 1e-9);
          expect(sum((a) => a.memoryBytes)).toBeLessThanOrEqual(host.inventory.memoryBytes);
          for (const gpu of host.inventory.gpus)
            expect(sum((a) => (a.gpuUuid === gpu.uuid ? a.gpuMemoryBytes : 0))).toBeLessThanOrEqual(gpu.memoryBytes);
        }
      },
    ),
    { numRuns: 300 },
  );
});

test("hosts come in any order, the answer is the same", () => {
  fc.assert(
    fc.property(fc.array(hostArb, { minLength: 2, maxLength: 6 }), fc.array(needArb, { maxLength: 10 }), (h, n) => {
      const hosts = hostsOf(h);
      const run = (order: readonly Candidate[]) => {
        const round = createRound(order);
        return n.map((facts) => round.place(needOf(facts)).choice);
      };
      expect(run([...hosts].reverse())).toEqual(run(hosts));
    }),
  );
});

test("a GPU host is kept until the GPU work of the round has been placed, then it takes what is left", () => {
  const full = { ...testHost("cpu"), held: [{ ...testNeedAllocation, cores: 4 }] };
  const gpuNeed = testNeed({ gpu: "required", gpuMemoryBytes: gib });
  const round = createRound([full, testHost("gpu", { gpus: [testGpu("GPU-1")] })], { waiting: [gpuNeed] });
  const refused = round.place(testNeed());
  expect(refused.choice).toBeUndefined();
  expect(refused.verdicts().map((v) => v.rule)).toEqual(["cores", "keep-gpu"]);
  expect(round.place(gpuNeed).choice?.host).toBe("gpu");
  expect(round.place(testNeed()).choice?.host).toBe("gpu");
});

test("no host is kept for GPU work that none could take even if nothing ran there", () => {
  const full = { ...testHost("cpu"), held: [{ ...testNeedAllocation, cores: 4 }] };
  const gpu = testHost("gpu", { gpus: [testGpu("GPU-1", { memoryBytes: 8 * gib })] });
  const tooLarge = testNeed({ gpu: "required", gpuMemoryBytes: 100 * gib });
  const fits = testNeed({ gpu: "required", gpuMemoryBytes: gib });
  const alone = createRound([full, gpu], { waiting: [tooLarge, testNeed()] });
  expect(alone.place(tooLarge).choice).toBeUndefined();
  expect(alone.place(testNeed()).choice?.host).toBe("gpu");
  const both = createRound([full, gpu], { waiting: [tooLarge, fits, testNeed()] });
  expect(both.place(testNeed()).choice).toBeUndefined();
  expect(both.place(fits).choice?.host).toBe("gpu");
  expect(both.place(testNeed()).choice?.host).toBe("gpu");
});

const testNeedAllocation = {
  cores: 0,
  memoryBytes: 0,
  scratchBytes: 0,
  gpuUuid: "",
  gpuMemoryBytes: 0,
  encoderSessions: 0,
};
