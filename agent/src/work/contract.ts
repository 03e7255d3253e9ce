// What work/ needs from the other rooms of the agent, declared here so that imports point one way:
// machine/ runs processes, stages/ plan and interpret them, link/ talks to the control plane.
//
// A stage is replayed, not resumed: after an agent restart its `run` is called again from the top, and every step that
// has a name and was finished before answers from the attempt directory at once. So a stage must reach the same steps
// from the same inputs, and do everything that costs time or money inside `process` or `once`.

import type {
  CompleteRequest,
  CompleteResponse,
  HeldAttempt,
  OfferAnswer,
  PlaceOutputsRequest,
  PlaceOutputsResponse,
  Progress,
} from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import type { Inventory } from "@renderplane/proto/gen/renderplane/v1/types.ts";
import type { FailureClass } from "@renderplane/proto/kernel/failure.ts";
import type { Logger } from "@renderplane/proto/kernel/process/logger.ts";

/** A program that the agent may run, by role; machine/ knows the path. Never a shell. */
export type Program = "ffmpeg" | "ffprobe" | "espeak-ng";

export type ProcessSpec = {
  readonly program: Program;
  /** Planned by a stage from validated fields; no user text, paths relative to the attempt's work folder. */
  readonly args: readonly string[];
  /** Text for stdin, kept as a file of the step. */
  readonly stdin?: string;
  /** The step's share of the stage: progress of FFmpeg is read when totalMs is known. `from`/`to` within 0..1. */
  readonly progress?: { readonly label: string; readonly totalMs?: number; readonly from: number; readonly to: number };
  /** No progress, no output growth and no CPU time for this long: ended as `stalled`. Default 60 s. */
  readonly stallMs?: number;
};

export type ProcessEnd = {
  /** null when a signal ended it. */
  readonly exitCode: number | null;
  readonly signal: string | null;
  /** First 16 KiB and last 256 KiB of each; the whole files stay in the step's folder while the attempt lives. */
  readonly stdout: string;
  readonly stderr: string;
  readonly stdoutPath: string;
  readonly stderrPath: string;
  readonly elapsedMs: number;
};

export type InputFile = {
  /** Where it came from: "" for the caller's uploads, else the stage that made it. */
  readonly stage: string;
  readonly name: string;
  /** Relative to the work folder; the name on disk is chosen by the agent, never by the caller. */
  readonly path: string;
  readonly sha256: string;
  readonly sizeBytes: number;
  readonly mediaType: string;
};

export type OutputFile = { readonly name: string; readonly path: string; readonly mediaType: string };

export type StageContext = {
  readonly jobId: string;
  readonly stage: string;
  /** Parameters of the pipeline; each kind validates its own. */
  readonly params: unknown;
  /** The job's request, validated at submission, validated again for the fields that the kind reads. */
  readonly request: unknown;
  readonly inputs: readonly InputFile[];
  /** Results of the stages that this one needs, by stage name. */
  readonly results: { readonly [stage: string]: unknown };
  /** Absolute path of the work folder: cwd of every process, home of every file the stage makes. */
  readonly dir: string;
  readonly threads: number;
  /** UUID of the GPU that the allocation holds, or "". */
  readonly gpuUuid: string;
  readonly inventory: Inventory;
  /** Aborted on stop, timeout and lost lease; network calls must follow it. */
  readonly signal: AbortSignal;
  readonly log: Logger;
  /** Runs one process as a durable step. Resolves at its end, whatever its exit; rejects only when it was stopped. */
  process(name: string, spec: ProcessSpec): Promise<ProcessEnd>;
  /** Does `act` once across agent restarts and answers with its JSON ever after. For calls that cost money. */
  once<T>(name: string, act: () => Promise<T>): Promise<T>;
  progress(update: {
    readonly fraction: number;
    readonly step: string;
    readonly speed?: number;
    readonly etaMs?: number;
  }): void;
  /** Adds to what the attempt used; replay-safe because it is keyed by service, provider and unit (the last call wins). */
  usage(use: {
    readonly service: string;
    readonly provider: string;
    readonly unit: string;
    readonly quantity: number;
  }): void;
  /** Takes files out of this host's cache, by content, unless a live attempt still uses them; answers the bytes freed. */
  release(sha256s: readonly string[]): Promise<number>;
};

export type StageEnd = {
  readonly result: { readonly [key: string]: unknown };
  readonly outputs: readonly OutputFile[];
};

export type StageKind = {
  readonly kind: string;
  /** Runs the stage. Throws StageFailure for everything it can name; anything else is reported as agent_bug. */
  run(context: StageContext): Promise<StageEnd>;
};

export class StageFailure extends Error {
  override readonly name = "StageFailure";
  readonly failureClass: FailureClass;
  readonly evidence: string;
  readonly exit: string;
  constructor(
    failureClass: FailureClass,
    message: string,
    more: { readonly evidence?: string; readonly exit?: string } = {},
  ) {
    super(message);
    this.failureClass = failureClass;
    this.evidence = more.evidence ?? "";
    this.exit = more.exit ?? "";
  }
}

/** What the supervisor needs from the link. Calls reject with a RenderplaneError or a gRPC error while the way is down. */
export type ControlPlane = {
  answerOffer(answer: OfferAnswer): void;
  /** Newest wins; dropped while there is no session. */
  sendProgress(progress: Progress): void;
  complete(request: CompleteRequest): Promise<CompleteResponse>;
  placeOutputs(request: PlaceOutputsRequest): Promise<PlaceOutputsResponse>;
};

/** What the link needs from the supervisor: the session's messages arrive here in order. */
export type Supervisor = {
  /** Attempts held now, for Hello and heartbeats. */
  held(): HeldAttempt[];
  onHelloAck(ack: import("@renderplane/proto/gen/renderplane/v1/agent.ts").HelloAck, sentAtMonoMs: number): void;
  onOffer(offer: import("@renderplane/proto/gen/renderplane/v1/agent.ts").Offer): void;
  onStart(start: import("@renderplane/proto/gen/renderplane/v1/agent.ts").Start): void;
  onStop(stop: import("@renderplane/proto/gen/renderplane/v1/agent.ts").Stop): void;
  /** The heartbeat that was sent at this monotonic time was acknowledged: leases are trusted from then on. */
  onHeartbeatAck(
    sentAtMonoMs: number,
    stops: readonly import("@renderplane/proto/gen/renderplane/v1/agent.ts").Stop[],
  ): void;
  /** The stream is gone; work goes on. */
  onDisconnect(): void;
};
