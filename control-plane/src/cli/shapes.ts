// The JSON of the HTTP interface as the command line reads it. Only fields that are shown or decided on are named; unknown
// fields pass through --json untouched, so an older command line works with a newer control plane.

export type JobState = "queued" | "processing" | "completed" | "failed" | "cancelled";

export type FailureJson = {
  readonly class: string;
  readonly severity?: string;
  readonly stage?: string | null;
  readonly message: string;
  readonly evidence?: string | null;
  readonly exit?: string | null;
};

export type StageJson = {
  readonly name: string;
  readonly kind: string;
  readonly state: string;
  /** 0..1 */
  readonly progress: number;
  readonly step: string;
  readonly eta_seconds: number | null;
  readonly tries: number;
  readonly retries: number;
  readonly actual_cost: number;
  readonly started_at: string | null;
  readonly ended_at: string | null;
  readonly elapsed_seconds: number | null;
  readonly waiting_reason?: unknown;
  readonly failure: FailureJson | null;
  readonly result: { readonly [key: string]: unknown } | null;
  readonly attempts: readonly {
    readonly id: string;
    readonly number: number;
    readonly host: string;
    readonly state: string;
    readonly outcome: string | null;
    readonly started_at: string | null;
    readonly ended_at: string | null;
    readonly failure: FailureJson | null;
  }[];
};

export type JobItemJson = {
  readonly id: string;
  readonly external_id: string | null;
  readonly pipeline: string;
  readonly priority: number;
  readonly complexity: string;
  readonly state: JobState;
  readonly status_text: string;
  /** 0..1; null in a list when only the job itself knows. */
  readonly progress: number | null;
  readonly eta_seconds: number | null;
  readonly position: number;
  /** Absent in the answer of an older control plane. */
  readonly eta?: {
    readonly start: TimeRangeJson | null;
    readonly finish: TimeRangeJson | null;
    readonly basis: string;
  } | null;
  readonly deadline?: string | null;
  readonly created_at: string;
  readonly started_at: string | null;
  readonly ended_at: string | null;
  readonly elapsed_seconds: number | null;
  readonly estimated_cost: number;
  readonly actual_cost: number;
};

export type JobJson = JobItemJson & {
  readonly progress: number;
  readonly user_id: string;
  readonly channel_id: string;
  readonly costs: readonly { readonly service: string; readonly provider: string; readonly amount: number }[];
  readonly failure: FailureJson | null;
  readonly stages: readonly StageJson[];
};

export type AcceptedJson = {
  readonly id: string;
  readonly position: number;
  readonly estimated_cost: number;
  readonly estimated_seconds: number;
};

export type ArtifactJson = {
  readonly stage: string;
  readonly name: string;
  readonly sha256: string;
  readonly size_bytes: number;
  readonly media_type: string;
};

export type ResourcesJson = {
  readonly cores: number;
  readonly memory_bytes: number;
  readonly gpus: readonly { readonly name: string }[];
};

export type HostJson = {
  readonly id: string;
  readonly name: string;
  readonly intent: string;
  readonly reason: string;
  readonly drain_until: string | null;
  readonly presence: "online" | "suspect" | "offline";
  readonly silent_seconds: number | null;
  readonly pool: string;
  readonly tags: readonly string[];
  readonly grade: string;
  readonly agent_version: string;
  readonly last_seen_at: string | null;
  readonly capacity: ResourcesJson;
  readonly free: ResourcesJson;
  readonly attempts: readonly { readonly attempt_id: string; readonly job_id: string; readonly stage: string }[];
  readonly ffmpeg_version: string;
  readonly encoders: readonly string[];
};

export type HostDetailJson = HostJson & {
  readonly sessions: readonly {
    readonly epoch: number;
    readonly instance_id: string;
    readonly replica: string;
    readonly opened_at: string;
    readonly closed_at: string | null;
  }[];
  readonly certificates: readonly {
    readonly serial: string;
    readonly expires_at: string;
    readonly superseded_at: string | null;
    readonly revoked_at: string | null;
  }[];
};

/** Pools whose work is held back, because many of their hosts fell silent at once. */
export type HostListJson = Page<HostJson> & {
  readonly closed_valves?: readonly { readonly pool: string; readonly opens_at: string; readonly reason: string }[];
};

export type ExplanationJson = {
  readonly job_id: string;
  readonly state: string;
  readonly summary: string;
  readonly stages: readonly {
    readonly stage: string;
    readonly state: string;
    readonly since: string | null;
    readonly reason: string;
    /** Absent in the answer of an older control plane. */
    readonly gates?: readonly { readonly rule: string; readonly verdict: "open" | "closed"; readonly reason: string }[];
    readonly hosts: readonly {
      readonly host_id: string;
      readonly host: string;
      readonly verdict: "fits" | "refused";
      readonly rule: string;
      readonly reason: string;
    }[];
  }[];
};

type TimeRangeJson = { readonly earliest: string; readonly latest: string };
export type EstimateJson =
  | {
      readonly valid: false;
      readonly reason: string;
      readonly errors: readonly { readonly pointer: string; readonly detail: string }[];
    }
  | {
      readonly valid: true;
      readonly pipeline: string;
      readonly complexity: string;
      readonly position: number;
      readonly queue: { readonly depth: number; readonly limit: number; readonly is_full: boolean };
      readonly start: TimeRangeJson | null;
      readonly finish: TimeRangeJson | null;
      readonly basis: "history" | "target";
      readonly cost: { readonly estimate: number; readonly low: number; readonly high: number; readonly limit: number };
      readonly hosts: number;
      readonly stages: readonly {
        readonly stage: string;
        readonly hosts: number;
        readonly hosts_now: number;
        readonly reasons: readonly { readonly rule: string; readonly hosts: number; readonly example: string }[];
      }[];
    };

export type QueueJson = {
  readonly depth: number;
  readonly processing: number;
  readonly scheduled: number;
  readonly resting_stages: number;
  readonly oldest_wait_seconds: number | null;
  readonly lanes: readonly {
    readonly pipeline: string;
    readonly complexity: string;
    readonly queued: number;
    readonly processing: number;
    readonly oldest_wait_seconds: number | null;
  }[];
  readonly limits: { readonly depth: number; readonly jobs: number };
  readonly reached: {
    readonly jobs: boolean;
    readonly users: readonly string[];
    readonly pipelines: readonly string[];
    readonly providers: readonly string[];
  };
  readonly head: readonly {
    readonly id: string;
    readonly position: number;
    readonly pipeline: string;
    readonly user_id: string;
    readonly priority: number;
    readonly not_before: string | null;
    readonly place: { readonly share_seconds: number; readonly premium_seconds: number };
  }[];
};

export type EnrollmentJson = { readonly token: string; readonly expires_at: string; readonly command: string };

export type Page<T> = { readonly items: readonly T[]; readonly next_cursor?: string | null };

/** RFC 9457, with the fields that every error of this interface carries. */
export type ProblemJson = {
  readonly title?: string;
  readonly status?: number;
  readonly detail?: string;
  readonly code?: string;
  readonly trace_id?: string;
  readonly next?: string;
  readonly errors?: readonly { readonly pointer: string; readonly detail: string }[];
};
