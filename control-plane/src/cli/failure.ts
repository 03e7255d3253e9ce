// The exit codes of the command line and the one error that carries them. Scripts depend on the numbers: they never change
// meaning. A problem of the server is mapped by its code first, by its status when the code is not known.
import type { ErrorCode } from "@renderplane/proto/kernel/errors.ts";
import type { JobState, ProblemJson } from "./shapes.ts";

export const exitCodes = {
  ok: 0,
  unexpected: 1,
  usage: 2,
  notFound: 3,
  forbidden: 4,
  conflict: 5,
  timedOut: 6,
  /** The job that was waited for failed or was cancelled. */
  jobFailed: 7,
  degraded: 8,
  unreachable: 9,
  costLimit: 10,
  rateLimited: 11,
  interrupted: 130,
  terminated: 143,
} as const;
export type ExitCode = (typeof exitCodes)[keyof typeof exitCodes];

/** What a person is told: one sentence, what to do next, and the id under which the server logged it. */
export class CliFailure extends Error {
  override readonly name = "CliFailure";
  readonly exitCode: ExitCode;
  readonly next: string;
  readonly traceId: string;
  readonly code: string;
  readonly fields: NonNullable<ProblemJson["errors"]>;
  constructor(
    exitCode: ExitCode,
    message: string,
    more: {
      readonly next?: string;
      readonly traceId?: string;
      readonly code?: string;
      readonly fields?: NonNullable<ProblemJson["errors"]>;
      readonly cause?: unknown;
    } = {},
  ) {
    super(message, more.cause === undefined ? undefined : { cause: more.cause });
    this.exitCode = exitCode;
    this.next = more.next ?? "";
    this.traceId = more.traceId ?? "";
    this.code = more.code ?? "";
    this.fields = more.fields ?? [];
  }
}

const byCode: { readonly [C in ErrorCode]?: ExitCode } = {
  idempotency_conflict: exitCodes.conflict,
  range_not_satisfiable: exitCodes.unexpected,
  method_not_allowed: exitCodes.unexpected,
  digest_mismatch: exitCodes.unexpected,
};

const byStatus: { readonly [status: number]: ExitCode } = {
  400: exitCodes.usage,
  401: exitCodes.forbidden,
  403: exitCodes.forbidden,
  404: exitCodes.notFound,
  408: exitCodes.timedOut,
  409: exitCodes.conflict,
  412: exitCodes.conflict,
  413: exitCodes.usage,
  415: exitCodes.usage,
  422: exitCodes.usage,
  428: exitCodes.conflict,
  429: exitCodes.rateLimited,
  502: exitCodes.unreachable,
  503: exitCodes.unreachable,
  504: exitCodes.unreachable,
};

export const failureOfProblem = (status: number, problem: ProblemJson): CliFailure => {
  const exitCode = byCode[problem.code as ErrorCode] ?? byStatus[status] ?? exitCodes.unexpected;
  return new CliFailure(exitCode, problem.detail ?? problem.title ?? `The server answered ${status}`, {
    next: problem.next ?? "",
    traceId: problem.trace_id ?? "",
    code: problem.code ?? "",
    fields: problem.errors ?? [],
  });
};

/** How a wait ends: a job that stopped at its cost limit is told apart from one that failed. */
export const exitOfJob = (job: {
  readonly state: JobState;
  readonly failure: { readonly class: string } | null;
}): ExitCode => {
  if (job.state === "completed") return exitCodes.ok;
  return job.failure?.class === "cost_limit" ? exitCodes.costLimit : exitCodes.jobFailed;
};
