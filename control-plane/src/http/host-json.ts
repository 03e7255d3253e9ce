// What a host looks like to clients: intent, presence and grade side by side, what it has, what is free, what it holds.
// Free room is a plain subtraction of what its live attempts hold; whether something fits is placement's to say.
// Invariant: presence is a fact about the stream (a replica holds it), never a guess from old health.
import { z } from "@hono/zod-openapi";
import type { HostRow } from "../domain/records.ts";
import { timeText } from "./job-json.ts";
import { jsonObject, time } from "./job-schema.ts";
import type { LiveAllocation } from "./operations.ts";

const gpuSchema = z.strictObject({ uuid: z.string(), name: z.string(), memory_bytes: z.int() });
const roomSchema = z.strictObject({
  cores: z.number(),
  memory_bytes: z.int(),
  scratch_bytes: z.int(),
  gpus: z.array(gpuSchema),
});

export const hostSchema = z
  .strictObject({
    id: z.string(),
    name: z.string(),
    intent: z.enum(["open", "cordoned", "draining", "maintenance", "quarantined", "revoked"]),
    presence: z.enum(["online", "offline"]),
    grade: z.enum(["good", "degraded", "bad"]),
    agent_version: z.string(),
    last_seen_at: time.nullable(),
    capacity: roomSchema,
    free: roomSchema,
    attempts: z.array(z.strictObject({ attempt_id: z.string(), job_id: z.string(), stage: z.string() })),
    ffmpeg_version: z.string(),
    encoders: z.array(z.string()),
    stage_kinds: z.array(z.string()),
    providers: z.array(z.string()),
    health: jsonObject,
  })
  .openapi("Host");

export const hostJson = (host: HostRow, allocations: readonly LiveAllocation[]): z.infer<typeof hostSchema> => {
  const { inventory } = host;
  const held = allocations.filter((a) => a.hostId === host.id);
  const sum = (of: (a: LiveAllocation["allocation"]) => number) =>
    held.reduce((total, a) => total + of(a.allocation), 0);
  const gpus = inventory.gpus.map((gpu) => ({ uuid: gpu.uuid, name: gpu.name, memory_bytes: gpu.memoryBytes }));
  return {
    id: host.id,
    name: host.name,
    intent: host.intent,
    presence: host.replica === null ? "offline" : "online",
    grade: host.grade,
    agent_version: host.agentVersion,
    last_seen_at: timeText(host.lastSeenAt),
    capacity: {
      cores: inventory.cores,
      memory_bytes: inventory.memoryBytes,
      scratch_bytes: inventory.scratchBytes,
      gpus,
    },
    free: {
      cores: left(inventory.cores - sum((a) => a.cores)),
      memory_bytes: left(inventory.memoryBytes - sum((a) => a.memoryBytes)),
      scratch_bytes: left(inventory.scratchBytes - sum((a) => a.scratchBytes)),
      gpus: gpus.map((gpu) => ({
        ...gpu,
        memory_bytes: left(gpu.memory_bytes - sum((a) => (a.gpuUuid === gpu.uuid ? a.gpuMemoryBytes : 0))),
      })),
    },
    attempts: held.map((a) => ({ attempt_id: a.attemptId, job_id: a.jobId, stage: a.stage })),
    ffmpeg_version: inventory.ffmpegVersion,
    encoders: [...new Set([...inventory.workingEncoders, ...inventory.gpus.flatMap((gpu) => gpu.workingEncoders)])],
    stage_kinds: [...inventory.stageKinds],
    providers: [...inventory.providers],
    health: { ...host.health },
  };
};

/** Never below zero; cores are fractions, so the noise of adding them is cut off. */
const left = (amount: number): number => Math.max(0, Math.round(amount * 1000) / 1000);
