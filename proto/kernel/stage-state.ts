// The one state machine of Renderplane: what may happen to a stage, and what follows.
//
// A stage waits for the stages it needs (pending), is queued (ready), leased to a host that has not answered yet
// (offered), and worked on (running). An attempt that ends badly sends it to waiting (a retry has a time) or to failed.
// Cancelling is a state of its own because the host must first stop the process: nothing is given away before that.
// SQL guards, the derived job state, docs/states.md and the property tests all read this table; nothing repeats it.

export const stageStates = [
  "pending",
  "ready",
  "offered",
  "running",
  "waiting",
  "blocked",
  "cancelling",
  "succeeded",
  "failed",
  "cancelled",
  "skipped",
] as const;
export type StageState = (typeof stageStates)[number];

export const stageEvents = [
  "unlock",
  "offer",
  "accept",
  "return",
  "succeed",
  "retry",
  "fail",
  "wake",
  "block",
  "unblock",
  "cancel",
  "stopped",
  "skip",
] as const;
export type StageEvent = (typeof stageEvents)[number];

/** `next[state][event]` is the state that follows; an absent event is refused. */
export const next: { readonly [S in StageState]: { readonly [E in StageEvent]?: StageState } } = {
  // Every stage it needs has succeeded, or one never will (skip).
  pending: { unlock: "ready", cancel: "cancelled", skip: "skipped" },
  // `fail` without an attempt: the budget halts the stage before it costs anything.
  ready: { offer: "offered", block: "blocked", fail: "failed", cancel: "cancelled", skip: "skipped" },
  // `return`: refused, offer expired, or the host stopped before it began. Not counted as a try.
  offered: {
    accept: "running",
    return: "ready",
    succeed: "succeeded",
    retry: "waiting",
    fail: "failed",
    cancel: "cancelling",
  },
  running: { succeed: "succeeded", retry: "waiting", fail: "failed", return: "ready", cancel: "cancelling" },
  waiting: { wake: "ready", cancel: "cancelled", skip: "skipped" },
  blocked: { unblock: "ready", fail: "failed", cancel: "cancelled", skip: "skipped" },
  // A result that arrives while the stop is on its way still ends the attempt, but the stage is cancelled.
  cancelling: { stopped: "cancelled" },
  succeeded: {},
  failed: {},
  cancelled: {},
  skipped: {},
};

export const isFinal = (state: StageState): boolean => Object.keys(next[state]).length === 0;

/** States in which a host holds a lease: exactly one live attempt exists. */
export const leasedStates = ["offered", "running", "cancelling"] as const satisfies readonly StageState[];
export const isLeased = (state: StageState): boolean => (leasedStates as readonly StageState[]).includes(state);

/** The states from which `event` is allowed: what a guarded UPDATE compares against. */
export const sourcesOf = (event: StageEvent): readonly StageState[] =>
  stageStates.filter((state) => next[state][event] !== undefined);

/** What follows, or undefined when the table refuses the event in this state. */
export const follow = (state: StageState, event: StageEvent): StageState | undefined => next[state][event];

/** How an attempt ended. `refused`, `expired` and `interrupted` do not count against the stage's retries. */
export const attemptOutcomes = [
  "succeeded",
  "failed",
  "refused",
  "expired",
  "interrupted",
  "lost",
  "cancelled",
] as const;
export type AttemptOutcome = (typeof attemptOutcomes)[number];
export const attemptStates = ["offered", "running", "ended"] as const;
export type AttemptState = (typeof attemptStates)[number];

/** The five words that customers see (requirements 002); derived from the stages, see control-plane/src/domain/job.ts. */
export const jobStates = ["queued", "processing", "completed", "failed", "cancelled"] as const;
export type JobState = (typeof jobStates)[number];
export const isFinalJob = (state: JobState): boolean => state !== "queued" && state !== "processing";
