// What a host looks like to clients: intent, presence and grade side by side, what it has, what is free, what it holds.
// Free room is a plain subtraction of what its live attempts hold; whether something fits is placement's to say.
// Invariant: presence is a fact about the stream and its silence (domain/presence.ts), never a guess from old health.
import { z } from "@hono/zod-openapi";
import { timeText } from "./job-json.ts";
import { jsonObject, time } from "./job-schema.ts";
import type { ClosedValve, HostDetail, HostView, LiveAllocation } from "./operations.ts";

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
    reason: z.string().openapi({ description: "Why the intent is what it is, in the words of who set it." }),
    drain_until: time.nullable().openapi({ description: "Draining only: when what still runs is given back." }),
    presence: z.enum(["online", "suspect", "offline"]),
    silent_seconds: z
      .number()
      .nullable()
      .openapi({ description: "Since its last heartbeat, by the database's clock." }),
    grade: z.enum(["good", "degraded", "bad"]),
    pool: z.string(),
    tags: z.array(z.string()),
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

export const hostDetailSchema = hostSchema
  .extend({
    sessions: z.array(
      z.strictObject({
        epoch: z.int(),
        instance_id: z.string(),
        replica: z.string(),
        opened_at: time,
        closed_at: time.nullable(),
      }),
    ),
    certificates: z.array(
      z.strictObject({
        serial: z.string(),
        issued_at: time,
        expires_at: time,
        superseded_at: time.nullable(),
        revoked_at: time.nullable(),
      }),
    ),
  })
  .openapi("HostDetail");

export const valveSchema = z
  .strictObject({ pool: z.string(), closed_at: time, opens_at: time, reason: z.string() })
  .openapi("ClosedValve", { description: "So many hosts fell silent at once that nothing of the pool is given away." });

export const valveJson = (valve: ClosedValve): z.infer<typeof valveSchema> => ({
  pool: valve.pool,
  closed_at: valve.closedAt.toISOString(),
  opens_at: valve.opensAt.toISOString(),
  reason: valve.reason,
});

export const hostDetailJson = (
  { host, sessions, certificates }: HostDetail,
  allocations: readonly LiveAllocation[],
): z.infer<typeof hostDetailSchema> => ({
  ...hostJson(
    host,
    allocations.filter((a) => a.hostId === host.id),
  ),
  sessions: sessions.map((session) => ({
    epoch: Number(session.epoch),
    instance_id: session.instanceId,
    replica: session.replica,
    opened_at: session.openedAt.toISOString(),
    closed_at: timeText(session.closedAt),
  })),
  certificates: certificates.map((certificate) => ({
    serial: certificate.serial,
    issued_at: certificate.issuedAt.toISOString(),
    expires_at: certificate.expiresAt.toISOString(),
    superseded_at: timeText(certificate.supersededAt),
    revoked_at: timeText(certificate.revokedAt),
  })),
});

/** `held` are the host's own. */
export const hostJson = (host: HostView, held: readonly LiveAllocation[]): z.infer<typeof hostSchema> => {
  const { inventory } = host;
  const sum = (of: (a: LiveAllocation["allocation"]) => number) =>
    held.reduce((total, a) => total + of(a.allocation), 0);
  const gpus = inventory.gpus.map((gpu) => ({ uuid: gpu.uuid, name: gpu.name, memory_bytes: gpu.memoryBytes }));
  return {
    id: host.id,
    name: host.name,
    intent: host.intent,
    reason: host.intentReason,
    drain_until: timeText(host.drainUntil),
    presence: host.presence,
    silent_seconds: host.silentMs === null ? null : Math.max(0, Math.round(host.silentMs / 100) / 10),
    grade: host.grade,
    pool: host.pool,
    tags: [...(inventory.tags ?? [])],
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
