// The agent's capacity table: each dimension refuses on its own and says which one it was.
import type { Allocation } from "@renderplane/proto/gen/renderplane/v1/types.ts";
import fc from "fast-check";
import { expect, test } from "vitest";
import { admit } from "./capacity.ts";

const gpu = { uuid: "GPU-a", name: "x", memoryBytes: 8_000n, driverVersion: "1", workingEncoders: [] };
const host = { cores: 4, memoryBytes: 1_000n, scratchBytes: 10_000n, gpus: [gpu] };
const need = (more: Partial<Allocation> = {}): Allocation => ({
  cores: 1,
  memoryBytes: 100n,
  scratchBytes: 100n,
  gpuUuid: "",
  gpuMemoryBytes: 0n,
  encoderSessions: 0,
  ...more,
});

test("what fits is admitted, exactly up to the edge", () => {
  expect(admit(need({ cores: 1 }), host, [need({ cores: 3 })])).toEqual({ ok: true });
  expect(
    admit(
      need({ cores: 0.1 }),
      host,
      Array.from({ length: 39 }, () => need({ cores: 0.1, memoryBytes: 1n })),
    ),
  ).toEqual({ ok: true });
});

test.each([
  ["attempts", need({ cores: 0, memoryBytes: 0n, scratchBytes: 0n }), 64],
  ["cores", need({ cores: 4.1 }), 0],
  ["memory", need({ memoryBytes: 1_001n }), 0],
  ["scratch", need({ scratchBytes: 10_001n }), 0],
  ["gpu", need({ gpuUuid: "GPU-b" }), 0],
  ["gpu_memory", need({ gpuUuid: "GPU-a", gpuMemoryBytes: 8_001n }), 0],
  ["encoder_sessions", need({ gpuUuid: "GPU-a", encoderSessions: 13 }), 0],
  ["encoder_sessions", need({ encoderSessions: 1 }), 0],
] as const)("%s refuses and names itself", (dimension, wanted, others) => {
  const none = need({ cores: 0, memoryBytes: 0n, scratchBytes: 0n });
  const answer = admit(
    wanted,
    host,
    Array.from({ length: others }, () => none),
  );
  expect(answer).toMatchObject({ ok: false, dimension });
  expect(answer).toHaveProperty("reason", expect.stringContaining(dimension));
});

test("numbers that make no sense are refused, never counted as room", () => {
  expect(admit(need({ cores: Number.NaN }), host, [])).toMatchObject({ ok: false, dimension: "cores" });
  expect(admit(need({ memoryBytes: -1n }), host, [])).toMatchObject({ ok: false, dimension: "memory" });
});

test("whatever is offered one after another, the host is never given twice", () => {
  const any = fc.record({ cores: fc.integer({ min: 0, max: 5 }), memory: fc.nat(600) });
  fc.assert(
    fc.property(fc.array(any, { maxLength: 30 }), (offers) => {
      const held: Allocation[] = [];
      for (const offer of offers) {
        const wanted = need({ cores: offer.cores, memoryBytes: BigInt(offer.memory) });
        if (admit(wanted, host, held).ok) held.push(wanted);
      }
      expect(held.reduce((sum, a) => sum + a.cores, 0)).toBeLessThanOrEqual(host.cores);
      expect(held.reduce((sum, a) => sum + a.memoryBytes, 0n)).toBeLessThanOrEqual(host.memoryBytes);
    }),
  );
});
