// Whether one more allocation fits on this host: the agent's own table, asked for every offer, because the control plane's
// picture may be a heartbeat old. Pure. Names the first dimension that does not fit, in an order that people can act on.
// Free disk space is measured and decided in work/, since it changes without us.

import type { Allocation, Inventory } from "@renderplane/proto/gen/renderplane/v1/types.ts";
import { maxAttemptsPerHost } from "@renderplane/proto/kernel/limits.ts";

export type Admission =
  | { readonly ok: true }
  | { readonly ok: false; readonly dimension: Dimension; readonly reason: string };

export type Dimension = "attempts" | "cores" | "memory" | "scratch" | "gpu" | "gpu_memory" | "encoder_sessions";

type Capacity = Pick<Inventory, "cores" | "memoryBytes" | "scratchBytes" | "gpus">;

/** Sums of fractions of cores: 0.1 ten times must fit into 1. */
const coreTolerance = 1e-6;
/** NVIDIA's limit for GeForce, counted over the whole host; boards without a limit are bounded by their memory before that. */
const maxEncoderSessions = 12;

export const admit = (need: Allocation, capacity: Capacity, held: readonly Allocation[]): Admission => {
  const onSameGpu = held.filter((allocation) => allocation.gpuUuid === need.gpuUuid);
  const sum = (of: (allocation: Allocation) => number, over = held) =>
    over.reduce((total, allocation) => total + of(allocation), 0);
  const gpu = capacity.gpus.find((candidate) => candidate.uuid === need.gpuUuid);
  const table: readonly (readonly [Dimension, number, number, number])[] = [
    ["attempts", 1, held.length, maxAttemptsPerHost],
    ["cores", need.cores, sum((a) => a.cores), capacity.cores + coreTolerance],
    ["memory", Number(need.memoryBytes), sum((a) => Number(a.memoryBytes)), Number(capacity.memoryBytes)],
    ["scratch", Number(need.scratchBytes), sum((a) => Number(a.scratchBytes)), Number(capacity.scratchBytes)],
    ["gpu", need.gpuUuid === "" || gpu ? 0 : 1, 0, 0],
    [
      "gpu_memory",
      Number(need.gpuMemoryBytes),
      sum((a) => Number(a.gpuMemoryBytes), onSameGpu),
      Number(gpu?.memoryBytes ?? 0n),
    ],
    ["encoder_sessions", need.encoderSessions, sum((a) => a.encoderSessions), gpu ? maxEncoderSessions : 0],
  ];
  for (const [dimension, wanted, used, limit] of table) {
    if (!(wanted >= 0))
      return { ok: false, dimension, reason: `${dimension}: the offer asks for ${wanted}, expected 0 or more` };
    if (wanted > 0 && wanted + used > limit)
      return {
        ok: false,
        dimension,
        reason:
          dimension === "gpu"
            ? `gpu: this host has no GPU ${need.gpuUuid}`
            : `${dimension}: ${wanted} wanted, ${used} of ${Math.round(limit * 1000) / 1000} in use`,
      };
  }
  return { ok: true };
};
