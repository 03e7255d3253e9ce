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
  readonly presence: "online" | "offline";
  readonly grade: string;
  readonly agent_version: string;
  readonly last_seen_at: string | null;
  readonly capacity: ResourcesJson;
  readonly free: ResourcesJson;
  readonly attempts: readonly { readonly attempt_id: string; readonly job_id: string; readonly stage: string }[];
  readonly ffmpeg_version: string;
  readonly encoders: readonly string[];
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
    readonly hosts: readonly {
      readonly host_id: string;
      readonly host: string;
      readonly verdict: "fits" | "refused";
      readonly rule: string;
      readonly reason: string;
    }[];
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
