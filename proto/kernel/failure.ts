// Every class of failure that an attempt can end with, and what is known about it before any policy is asked.
// The agent classifies (evidence -> class), the control plane decides (class -> recovery). Both read this table;
// the FFmpeg catalogue (agent/src/domain/ffmpeg-errors.json) maps stderr lines to the same words.

export type Severity = "low" | "medium" | "high" | "critical";

/** Where a second try makes sense: nowhere, anywhere, or only on another host. */
export type RetryPlace = "never" | "anywhere" | "elsewhere";

type FailureFacts = {
  readonly severity: Severity;
  readonly retry: RetryPlace;
  /** One phrase for a producer; the message of the attempt has the detail. */
  readonly summary: string;
};

// Severity follows requirements 002 `_classify_error`, on typed classes instead of message texts: cost limit and GPU out
// of memory are critical; connections, timeouts and quotas high; bad values and "try again" medium; the rest low.
export const failureClasses = {
  cost_limit: { severity: "critical", retry: "never", summary: "the cost limit of the job was reached" },
  gpu_oom: { severity: "critical", retry: "anywhere", summary: "the GPU ran out of memory" },

  timeout: { severity: "high", retry: "anywhere", summary: "the stage took longer than its limit" },
  stalled: { severity: "high", retry: "anywhere", summary: "the process made no progress" },
  network: { severity: "high", retry: "anywhere", summary: "a network connection failed" },
  provider_unavailable: { severity: "high", retry: "anywhere", summary: "an outside service did not answer" },
  provider_quota: { severity: "high", retry: "anywhere", summary: "an outside service refused for its quota or rate" },
  host_lost: { severity: "high", retry: "elsewhere", summary: "the host stopped answering" },

  transient: { severity: "medium", retry: "anywhere", summary: "a passing condition; trying again helps" },
  input_missing: { severity: "medium", retry: "never", summary: "an input file is missing" },
  input_corrupt: { severity: "medium", retry: "never", summary: "an input file cannot be read" },
  input_refused: { severity: "medium", retry: "never", summary: "an input is of a kind that is not accepted" },
  input_invalid: { severity: "medium", retry: "never", summary: "a value of the request cannot be used" },
  provider_auth: { severity: "medium", retry: "never", summary: "an outside service refused the key" },
  provider_bad_answer: { severity: "medium", retry: "anywhere", summary: "an outside service answered nonsense" },
  transfer_failed: { severity: "medium", retry: "anywhere", summary: "a file could not be moved whole" },
  quality_failed: { severity: "medium", retry: "never", summary: "the result did not pass its checks" },

  encoder_unavailable: { severity: "low", retry: "elsewhere", summary: "the host cannot use the encoder" },
  encoder_sessions: { severity: "low", retry: "anywhere", summary: "all encoder sessions of the GPU are taken" },
  gpu_lost: { severity: "low", retry: "elsewhere", summary: "the GPU is gone or broken" },
  driver: { severity: "low", retry: "elsewhere", summary: "the GPU driver does not fit" },
  host_memory: { severity: "low", retry: "elsewhere", summary: "the host ran out of memory" },
  disk_full: { severity: "low", retry: "elsewhere", summary: "the scratch disk of the host is full" },
  host_fault: { severity: "low", retry: "elsewhere", summary: "the host is misconfigured or faulty" },
  missing_program: { severity: "low", retry: "elsewhere", summary: "a program that the stage needs is not installed" },
  killed: { severity: "low", retry: "anywhere", summary: "the process was killed" },
  crashed: { severity: "low", retry: "elsewhere", summary: "the process crashed" },
  output_invalid: { severity: "low", retry: "anywhere", summary: "the output is missing, empty or unplayable" },
  agent_bug: { severity: "low", retry: "never", summary: "the agent asked for something impossible" },
  unknown: { severity: "low", retry: "anywhere", summary: "the cause is not known" },
} as const satisfies Record<string, FailureFacts>;

export type FailureClass = keyof typeof failureClasses;
export const isFailureClass = (text: string): text is FailureClass => Object.hasOwn(failureClasses, text);
export const factsOf = (failureClass: FailureClass): FailureFacts => failureClasses[failureClass];
