// Between protobuf messages and the records of the operations, in both directions. What an agent sends is checked here for
// shape and size, and texts lose the NUL that PostgreSQL cannot store: one bad record must never spoil a batch of all hosts.

import type { Health } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import {
  type HeldAttempt,
  HeldState,
  type Offer,
  type Stop,
  StopReason,
  VerdictAction,
} from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import type { Inventory } from "@renderplane/proto/gen/renderplane/v1/types.ts";
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { maxAttemptsPerHost } from "@renderplane/proto/kernel/limits.ts";
import type { InventoryRecord, JsonObject } from "../domain/records.ts";
import type { OfferRecord } from "../operations/take-offers.ts";
import type { HeldRecord, StopRecord, VerdictRecord } from "./operations.ts";

export const attemptIdPattern = /^a_[0-9A-HJKMNP-TV-Z]{26}$/;
const maxTextLength = 200;
/** Encoders, kinds and providers of one host; a list beyond this is not an inventory. */
const maxListLength = 500;
const maxGpus = 64;

export const refuse = (pointer: string, detail: string): never => {
  throw new RenderplaneError("invalid_request", `${pointer.slice(1).replaceAll("/", ".")}: ${detail}`, {
    fields: [{ pointer, detail }],
  });
};

/** Without NUL, cut to `max` characters; half a character at the cut becomes U+FFFD. PostgreSQL stores neither in JSON. */
export const cleanText = (text: string, max: number = maxTextLength): string =>
  text.replaceAll("\u0000", "").slice(0, max).toWellFormed();

const finite = (value: number): number => (Number.isFinite(value) ? value : 0);
/** 0 when it is negative or too large for a number: capacity that cannot be is no capacity. */
const bytes = (value: bigint): number => (value < 0n || value > BigInt(Number.MAX_SAFE_INTEGER) ? 0 : Number(value));
const texts = (list: readonly string[], pointer: string): string[] =>
  list.length > maxListLength
    ? refuse(pointer, `lists ${list.length} entries, at most ${maxListLength} are read`)
    : list.map((text) => cleanText(text));

export const inventoryRecord = (inventory: Inventory | undefined): InventoryRecord => {
  if (!inventory) return refuse("/inventory", "is missing; the agent must say what the host has");
  if (inventory.gpus.length > maxGpus) return refuse("/inventory/gpus", `lists more than ${maxGpus} devices`);
  return {
    hostname: cleanText(inventory.hostname),
    os: cleanText(inventory.os),
    arch: cleanText(inventory.arch),
    cpuModel: cleanText(inventory.cpuModel),
    cores: Math.max(0, finite(inventory.cores)),
    memoryBytes: bytes(inventory.memoryBytes),
    scratchBytes: bytes(inventory.scratchBytes),
    gpus: inventory.gpus.map((gpu) => ({
      uuid: cleanText(gpu.uuid),
      name: cleanText(gpu.name),
      memoryBytes: bytes(gpu.memoryBytes),
      driverVersion: cleanText(gpu.driverVersion),
      workingEncoders: texts(gpu.workingEncoders, "/inventory/gpus/working_encoders"),
    })),
    ffmpegVersion: cleanText(inventory.ffmpegVersion),
    workingEncoders: texts(inventory.workingEncoders, "/inventory/working_encoders"),
    stageKinds: texts(inventory.stageKinds, "/inventory/stage_kinds"),
    providers: texts(inventory.providers, "/inventory/providers"),
    tags: texts(inventory.tags, "/inventory/tags"),
  };
};

const heldStates = {
  [HeldState.HELD_STATE_ACCEPTED]: "accepted",
  [HeldState.HELD_STATE_RUNNING]: "running",
  [HeldState.HELD_STATE_ENDED]: "ended",
} as const;

export const heldRecords = (attempts: readonly HeldAttempt[]): HeldRecord[] => {
  if (attempts.length > maxAttemptsPerHost)
    return refuse("/attempts", `lists ${attempts.length} attempts, a host holds at most ${maxAttemptsPerHost}`);
  return attempts.map(({ attemptId, fence, state }, index) => {
    const known = heldStates[state as keyof typeof heldStates];
    if (!attemptIdPattern.test(attemptId))
      return refuse(`/attempts/${index}/attempt_id`, "is not the id of an attempt");
    if (!known) return refuse(`/attempts/${index}/state`, `${state} is not a state that this version knows`);
    return { attemptId, fence, state: known };
  });
};

const actions = {
  continue: VerdictAction.VERDICT_ACTION_CONTINUE,
  abandon: VerdictAction.VERDICT_ACTION_ABANDON,
  report: VerdictAction.VERDICT_ACTION_REPORT,
} as const;
export const verdictMessage = (verdict: VerdictRecord) => ({ ...verdict, action: actions[verdict.action] });

const reasons = {
  cancelled: StopReason.STOP_REASON_CANCELLED,
  lease_lost: StopReason.STOP_REASON_LEASE_LOST,
  give_back: StopReason.STOP_REASON_GIVE_BACK,
} as const;
export const stopMessage = (stop: StopRecord): Stop => ({ ...stop, reason: reasons[stop.reason] });

export const offerMessage = (offer: OfferRecord, leaseMs: number): Offer => ({
  attemptId: offer.attemptId,
  fence: offer.fence,
  jobId: offer.jobId,
  stage: offer.stage,
  kind: offer.kind,
  number: offer.number,
  params: JSON.stringify(offer.params),
  request: JSON.stringify(offer.request),
  inputs: offer.inputs.map(({ stage, url, sizeBytes, ...artifact }) => ({
    artifact: { ...artifact, sizeBytes: BigInt(sizeBytes) },
    stage,
    url,
  })),
  results: JSON.stringify(offer.results),
  allocation: {
    ...offer.allocation,
    memoryBytes: BigInt(offer.allocation.memoryBytes),
    scratchBytes: BigInt(offer.allocation.scratchBytes),
    gpuMemoryBytes: BigInt(offer.allocation.gpuMemoryBytes),
  },
  timeoutMs: offer.timeoutMs,
  leaseMs,
  trustedMs: offer.trustedMs,
});

export const healthRecord = (health: Health): JsonObject => ({
  cpu_used: finite(health.cpuUsed),
  memory_used_bytes: bytes(health.memoryUsedBytes),
  scratch_free_bytes: bytes(health.scratchFreeBytes),
  agent_rss_bytes: bytes(health.agentRssBytes),
  load_average: finite(health.loadAverage),
  unacknowledged_ends: finite(health.unacknowledgedEnds),
  is_draining: health.isDraining,
  gpus: health.gpus.slice(0, maxGpus).map((gpu) => ({
    uuid: cleanText(gpu.uuid),
    used: finite(gpu.used),
    memory_used_bytes: bytes(gpu.memoryUsedBytes),
    temperature_celsius: finite(gpu.temperatureCelsius),
    encoder_used: finite(gpu.encoderUsed),
    power_watts: finite(gpu.powerWatts),
  })),
});
