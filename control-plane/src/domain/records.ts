// The records that decisions read and the store keeps, as TypeScript sees them: camel case, decoded in one place
// (each store file selects with these names). Types only.
import type { AttemptOutcome, AttemptState, JobState, StageState } from "@renderplane/proto/kernel/stage-state.ts";
import type { Micros } from "@renderplane/proto/kernel/units.ts";

export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };
export type JsonObject = { readonly [key: string]: Json };
export type Complexity = "simple" | "complex" | "premium";

/** failureClass is a class of kernel/failure.ts. */
export type FailureRecord = {
  readonly failureClass: string;
  readonly severity: string;
  readonly message: string;
  readonly stage?: string;
  readonly evidence?: string;
  readonly exit?: string;
};

export type JobRow = {
  readonly id: string;
  readonly externalId: string | null;
  readonly pipeline: string;
  readonly pipelineVersion: number;
  readonly userId: string;
  readonly channelId: string;
  readonly priority: number;
  readonly complexity: Complexity;
  /** Its place in the queue, smallest first; see queue-order.ts. */
  readonly rank: bigint;
  /** Not begun before; null: at once. */
  readonly notBefore: Date | null;
  readonly deadlineAt: Date | null;
  readonly onDeadline: "report" | "cancel";
  readonly state: JobState;
  readonly request: JsonObject;
  readonly estimatedMicros: Micros;
  readonly heldMicros: Micros;
  readonly spentMicros: Micros;
  readonly haltMicros: Micros;
  readonly cancelRequestedAt: Date | null;
  readonly failure: FailureRecord | null;
  readonly result: JsonObject | null;
  readonly createdAt: Date;
  readonly startedAt: Date | null;
  readonly endedAt: Date | null;
};

/** What the pipeline said about a stage when the job was submitted. */
export type StageSpec = {
  readonly needs: readonly string[];
  /** The caller's uploads are inputs of this stage. */
  readonly uploads: boolean;
  readonly params: JsonObject;
  readonly timeoutMs: number;
  readonly retries: number;
  readonly backoffMs: number;
  /** Names of providers of which the host must have one; empty: any host. */
  readonly providers: readonly string[];
  /** Words that the host must all have (its own tags). Absent in stages planned before there were tags. */
  readonly tags?: readonly string[];
  /** Two runs at once do harm (a shared target, a licence): the agent stops before the lease can be given away. */
  readonly exclusive?: boolean;
  readonly resources: ResourceNeed;
};
export type ResourceNeed = {
  readonly cores: number;
  readonly memoryBytes: number;
  readonly scratchBytes: number;
  readonly gpu: "none" | "preferred" | "required";
  readonly gpuMemoryBytes: number;
  /** With `required`: while the fleet has no working GPU at all, any host may take it, or it would wait for ever. */
  readonly cpuWithoutGpus?: boolean;
};

export type StageRow = {
  readonly id: bigint;
  readonly jobId: string;
  readonly position: number;
  readonly name: string;
  readonly kind: string;
  readonly state: StageState;
  readonly spec: StageSpec;
  readonly openNeeds: number;
  readonly tries: number;
  readonly attempts: number;
  readonly avoid: readonly { readonly hostId: string; readonly reason: string }[];
  readonly estimatedMicros: Micros;
  /** The job's. */
  readonly rank: bigint;
  readonly userId: string;
  readonly pipeline: string;
  /** Digest of what decides which hosts can take it. */
  readonly shape: string;
  readonly queuedAt: Date;
  readonly runAt: Date;
  readonly waitingReason: JsonObject | null;
  readonly outputFence: bigint | null;
  readonly result: JsonObject | null;
  readonly failure: FailureRecord | null;
  readonly startedAt: Date | null;
  readonly endedAt: Date | null;
};

/** Numbers, not bigint: they are stored as JSON and stay below 2^53. */
export type AllocationRecord = {
  readonly cores: number;
  readonly memoryBytes: number;
  readonly scratchBytes: number;
  readonly gpuUuid: string;
  readonly gpuMemoryBytes: number;
  readonly encoderSessions: number;
};

export type AttemptRow = {
  readonly id: string;
  readonly stageId: bigint;
  readonly jobId: string;
  readonly hostId: string;
  readonly number: number;
  readonly fence: bigint;
  readonly state: AttemptState;
  readonly outcome: AttemptOutcome | null;
  readonly allocation: AllocationRecord;
  readonly holdMicros: Micros;
  readonly chargeMicros: Micros;
  readonly offeredAt: Date;
  readonly startedAt: Date | null;
  readonly leaseUntil: Date;
  readonly progress: number;
  readonly step: string;
  readonly etaMs: bigint | null;
  readonly failure: FailureRecord | null;
  readonly verdict: JsonObject | null;
  readonly endedAt: Date | null;
};

/** The inventory as the agent reported it, numbers instead of bigint. */
export type InventoryRecord = {
  readonly hostname: string;
  readonly os: string;
  readonly arch: string;
  readonly cpuModel: string;
  readonly cores: number;
  readonly memoryBytes: number;
  readonly scratchBytes: number;
  readonly gpus: readonly {
    readonly uuid: string;
    readonly name: string;
    readonly memoryBytes: number;
    readonly driverVersion: string;
    readonly workingEncoders: readonly string[];
  }[];
  readonly ffmpegVersion: string;
  readonly workingEncoders: readonly string[];
  readonly stageKinds: readonly string[];
  readonly providers: readonly string[];
  /** Absent in the inventory of an agent that does not know tags. */
  readonly tags?: readonly string[];
};

export type HostIntent = "open" | "cordoned" | "draining" | "maintenance" | "quarantined" | "revoked";
export type HostRow = {
  readonly id: string;
  readonly name: string;
  readonly intent: HostIntent;
  /** Why, in the words of who set it; "" when nobody said. */
  readonly intentReason: string;
  readonly drainUntil: Date | null;
  readonly pool: string;
  readonly grade: "good" | "degraded" | "bad";
  readonly inventory: InventoryRecord;
  readonly instanceId: string;
  readonly agentVersion: string;
  readonly epoch: bigint;
  /** Set while a replica holds its stream. */
  readonly replica: string | null;
  readonly health: JsonObject;
  readonly lastSeenAt: Date | null;
  /** Since lastSeenAt, by the database's clock; null when it was never seen. */
  readonly silentMs: number | null;
  readonly createdAt: Date;
};

export type FileRow = {
  readonly jobId: string;
  /** "" for the caller's uploads. */
  readonly stage: string;
  readonly name: string;
  readonly sha256: string;
  readonly sizeBytes: bigint;
  readonly mediaType: string;
};

export type EventRow = {
  readonly seq: bigint;
  readonly type: string;
  readonly jobId: string | null;
  readonly hostId: string | null;
  readonly isTerminal: boolean;
  readonly body: JsonObject;
  readonly at: Date;
};

export type CostLine = { readonly service: string; readonly provider: string; readonly micros: Micros };
/** Everything about one job, read in one snapshot. */
export type JobDetail = {
  readonly job: JobRow;
  readonly stages: readonly StageRow[];
  readonly attempts: readonly AttemptRow[];
  readonly costs: readonly CostLine[];
  readonly hostNames: ReadonlyMap<string, string>;
  /** 1-based place of its first ready stage in the queue; -1 when none waits. */
  readonly position: number;
};
