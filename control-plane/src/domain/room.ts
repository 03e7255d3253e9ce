// The room of a host: what its live attempts leave free, and which of its GPUs has most of it. Subtraction only; whether
// something fits is placement's to say. What the host reports of its disk counts too: others may fill it.
import type { AllocationRecord, HostRow } from "./records.ts";

type Gpu = HostRow["inventory"]["gpus"][number];
type Room = { readonly host: HostRow; readonly held: readonly AllocationRecord[] };

export const freeOf = ({
  host,
  held,
}: Room): { readonly cores: number; readonly memoryBytes: number; readonly scratchBytes: number } => {
  let [cores, memoryBytes, scratchBytes] = [
    host.inventory.cores,
    host.inventory.memoryBytes,
    host.inventory.scratchBytes,
  ];
  for (const a of held) {
    cores -= a.cores;
    memoryBytes -= a.memoryBytes;
    scratchBytes -= a.scratchBytes;
  }
  // Attempts that run fill what they hold bit by bit, so the report is not what is free for others, only a bound of it.
  const reported = host.health.scratch_free_bytes;
  return {
    cores,
    memoryBytes,
    scratchBytes: typeof reported === "number" ? Math.min(scratchBytes, reported) : scratchBytes,
  };
};

/** A GPU counts when its encoder proved itself at start: some have none (compute cards), some have a broken driver. */
export const hasWorkingGpu = (host: HostRow): boolean =>
  host.inventory.gpus.some((gpu) => gpu.workingEncoders.length > 0);

/** Hosts that were gone for longer are not waited for: a job that expects a GPU then goes to a CPU rather than never. */
const patienceMs = 3_600_000;
export const isPatient = (host: HostRow): boolean =>
  (host.intent === "open" || host.intent === "cordoned" || host.intent === "draining") &&
  (host.replica !== null || (host.silentMs !== null && host.silentMs < patienceMs));

/**
 * The GPU to use: of those with room the one with fewest encoder sessions, then most memory left, so that work spreads over
 * the GPUs of a host. `freeShare` is 0..1, smaller with every session.
 */
export const gpuFor = (
  memoryBytes: number,
  { host, held }: Room,
): { readonly gpu: Gpu; readonly freeShare: number } | undefined => {
  let best: { gpu: Gpu; free: number; sessions: number } | undefined;
  for (const gpu of host.inventory.gpus) {
    if (gpu.workingEncoders.length === 0) continue;
    let [free, sessions] = [gpu.memoryBytes, 0];
    for (const a of held)
      if (a.gpuUuid === gpu.uuid) {
        free -= a.gpuMemoryBytes;
        sessions += a.encoderSessions;
      }
    if (free < memoryBytes) continue;
    if (!best || sessions < best.sessions || (sessions === best.sessions && free > best.free))
      best = { gpu, free, sessions };
  }
  return best && { gpu: best.gpu, freeShare: best.free / Math.max(1, best.gpu.memoryBytes) / (1 + best.sessions) };
};
