// What the edge for people and tools needs from the rest of the control plane, as types: acts, reads and shared parts.
// The composition root binds the real ones (bind.ts); tests bind small ones. Nothing here decides or runs anything.
// Invariant: the edge reaches facts only through these functions, so it holds no SQL and no transaction.

import type { Logger } from "@renderplane/proto/kernel/process/logger.ts";
import type { JobState, StageState } from "@renderplane/proto/kernel/stage-state.ts";
import type { Micros } from "@renderplane/proto/kernel/units.ts";
import type { AddressSigner } from "../artifacts/address-signer.ts";
import type { ArtifactStore } from "../artifacts/artifact-store.ts";
import type { Bus } from "../bus/bus.ts";
import type { Outlook } from "../domain/eta.ts";
import type { GateView } from "../domain/gates.ts";
import type { IntentAct } from "../domain/intent.ts";
import type { Pipeline } from "../domain/pipeline.ts";
import type { Presence } from "../domain/presence.ts";
import type {
  AllocationRecord,
  Complexity,
  EventRow,
  FileRow,
  HostRow,
  JobDetail,
  JobRow,
  JsonObject,
} from "../domain/records.ts";
import type { EstimateAnswer } from "../operations/estimate-job.ts";
import type { QueueSight } from "../operations/view-queue.ts";

export type Upload = {
  readonly name: string;
  readonly sha256: string;
  readonly sizeBytes: number;
  readonly mediaType: string;
};

/** What a body says, checked; uploads and the Idempotency-Key are added by the edge. */
export type ParsedSubmission = {
  readonly pipeline: string;
  readonly userId: string;
  readonly channelId: string;
  readonly priority: number;
  readonly complexity: Complexity;
  readonly request: JsonObject;
  readonly notBefore?: Date;
  readonly deadlineAt?: Date;
  readonly onDeadline?: "report" | "cancel";
  readonly externalId?: string;
  readonly haltMicros?: bigint;
};
export type Submission = ParsedSubmission & { readonly idempotencyKey?: string; readonly uploads: readonly Upload[] };

export type Submitted = {
  readonly jobId: string;
  readonly replayed: boolean;
  readonly position: number;
  readonly estimatedMicros: Micros;
  readonly estimatedSeconds: number;
};

export type Explanation = {
  readonly jobId: string;
  readonly state: string;
  readonly summary: string;
  readonly stages: readonly {
    readonly stage: string;
    readonly state: string;
    readonly since: Date;
    readonly reason: string;
    readonly gates: readonly GateView[];
    readonly hosts: readonly {
      readonly hostId: string;
      readonly host: string;
      readonly verdict: "fits" | "refused";
      readonly rule: string;
      readonly reason: string;
    }[];
  }[];
};

export type JobFilter = {
  readonly state?: JobState;
  readonly pipeline?: string;
  readonly userId?: string;
  readonly channelId?: string;
  readonly limit: number;
  readonly before?: { readonly createdAt: Date; readonly id: string };
};

export type LiveAllocation = {
  readonly hostId: string;
  readonly attemptId: string;
  readonly jobId: string;
  readonly stage: string;
  readonly allocation: AllocationRecord;
};

/** A host with its presence as it is now. */
export type HostView = HostRow & { readonly presence: Presence };
export type HostDetail = {
  readonly host: HostView;
  readonly sessions: readonly {
    readonly epoch: bigint;
    readonly instanceId: string;
    readonly replica: string;
    readonly openedAt: Date;
    readonly closedAt: Date | null;
  }[];
  readonly certificates: readonly {
    readonly serial: string;
    readonly issuedAt: Date;
    readonly expiresAt: Date;
    readonly supersededAt: Date | null;
    readonly revokedAt: Date | null;
  }[];
};
export type ClosedValve = {
  readonly pool: string;
  readonly closedAt: Date;
  readonly opensAt: Date;
  readonly reason: string;
};
/** Who asks for something that is done to a host, and why. */
type Asked = { readonly reason: string; readonly by: string };

export type HttpOperations = {
  readonly parseSubmission: (body: unknown) => ParsedSubmission;
  readonly submitJob: (submission: Submission) => Promise<Submitted>;
  readonly cancelJob: (jobId: string, reason: string) => Promise<void>;
  readonly explainJob: (jobId: string) => Promise<Explanation>;
  readonly issueJoinToken: (o: { readonly ttlMs: number; readonly maxUses: number }) => Promise<{
    readonly token: string;
    readonly expiresAt: Date;
  }>;
  /** When an open job will begin and end; undefined when nothing can be said. */
  readonly readOutlook: (detail: JobDetail) => Promise<Outlook | undefined>;
  readonly estimateJob: (body: unknown) => Promise<EstimateAnswer>;
  readonly viewQueue: () => Promise<QueueSight>;
  readonly readJobDetail: (idOrExternalId: string) => Promise<JobDetail | undefined>;
  readonly listJobs: (filter: JobFilter) => Promise<readonly JobRow[]>;
  readonly listFiles: (jobId: string) => Promise<readonly FileRow[]>;
  readonly listHosts: () => Promise<readonly HostView[]>;
  /** By id or name, as everything below. */
  readonly viewHost: (host: string) => Promise<HostDetail>;
  readonly setIntent: (
    r: Asked & { readonly host: string; readonly act: IntentAct; readonly giveBackAfterMs?: number },
  ) => Promise<unknown>;
  readonly revokeCertificate: (r: Asked & { readonly host: string; readonly serial: string }) => Promise<unknown>;
  readonly removeHost: (r: Asked & { readonly host: string }) => Promise<void>;
  readonly setPool: (r: Asked & { readonly host: string; readonly pool: string }) => Promise<unknown>;
  readonly listClosedValves: () => Promise<readonly ClosedValve[]>;
  /** False: the valve is open. */
  readonly openValve: (r: Asked & { readonly pool: string }) => Promise<boolean>;
  readonly liveAllocations: () => Promise<readonly LiveAllocation[]>;
  readonly eventsAfter: (o: {
    readonly seq: bigint;
    readonly limit: number;
    readonly jobId?: string;
  }) => Promise<readonly EventRow[]>;
  readonly lastEventSeq: () => Promise<bigint>;
  readonly countStages: () => Promise<readonly { readonly state: StageState; readonly count: number }[]>;
  readonly countJobs: () => Promise<readonly { readonly state: JobState; readonly count: number }[]>;
};

/** The parts of the control plane's context that this edge uses; the whole context fits. */
export type HttpContext = {
  readonly bus: Bus;
  readonly pipelines: ReadonlyMap<string, Pipeline>;
  readonly artifacts: ArtifactStore;
  readonly signer: AddressSigner;
  readonly log: Logger;
};
