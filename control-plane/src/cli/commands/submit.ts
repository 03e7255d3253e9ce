// renderplane submit: one job from a file, stdin or -f fields, with media if any. Always sends an Idempotency-Key, so that a
// repeated call with the same --idempotency-key never makes a second job. Prints the id; --wait goes on like watch.
import { randomUUID } from "node:crypto";
import { formatDuration } from "@renderplane/proto/kernel/units.ts";
import { CliFailure, type ExitCode, exitCodes } from "../failure.ts";
import { dollarText } from "../money.ts";
import type { AcceptedJson } from "../shapes.ts";
import { buildSubmission, formOf, readText } from "../submission.ts";
import { estimateJob } from "./estimate.ts";
import type { Session } from "./session.ts";
import { parseTimeoutMs, watchJob } from "./watch.ts";

export type SubmitOptions = {
  readonly media?: readonly string[] | undefined;
  readonly field: readonly string[];
  readonly pipeline?: string | undefined;
  readonly priority?: string | undefined;
  readonly complexity?: string | undefined;
  readonly wait?: boolean | undefined;
  readonly dryRun?: boolean | undefined;
  readonly timeout?: string | undefined;
  readonly idempotencyKey?: string | undefined;
};

/** A job file is small; more than this on stdin is a mistake. */
const largestStdin = 1024 * 1024;

export const submitJob = async (
  session: Session,
  file: string | undefined,
  options: SubmitOptions,
): Promise<ExitCode> => {
  if (file === undefined && options.field.length === 0)
    throw new CliFailure(exitCodes.usage, "Nothing to submit: name a FILE, - for stdin, or give fields with -f", {
      next: "renderplane submit examples/narrated-video.json --wait",
    });
  // Before anything is made: a job that exists costs money, and a usage error invites a second try.
  if (options.timeout !== undefined) parseTimeoutMs(options.timeout);
  const body = await buildSubmission({
    text: file === undefined ? undefined : file === "-" ? await readStdin(session) : await readText(file, "FILE"),
    source: file === "-" ? "stdin" : (file ?? ""),
    fields: options.field,
    pipeline: options.pipeline,
    priority: options.priority,
    complexity: options.complexity,
  });
  if (options.dryRun) return estimateJob(session, body);
  const headers = { "idempotency-key": JSON.stringify(options.idempotencyKey ?? randomUUID()) };
  const media = options.media ?? [];
  const accepted =
    media.length === 0
      ? await session.client.post<AcceptedJson>("/api/v1/jobs", body, headers)
      : await session.client.postForm<AcceptedJson>("/api/v1/jobs", await formOf(body, media), headers);
  const { output } = session;
  const place = accepted.position > 0 ? `place ${accepted.position} in the queue, ` : "";
  output.note(
    `${output.paint("green", "✓")} Accepted ${accepted.id}: ${place}about ${formatDuration(accepted.estimated_seconds * 1000)}, est. ${dollarText(accepted.estimated_cost)}`,
  );
  if (options.wait) return watchJob(session, accepted.id, { timeout: options.timeout });
  if (!output.json(accepted)) output.result(accepted.id);
  output.note(`Next: renderplane watch ${accepted.id}`);
  return exitCodes.ok;
};

const readStdin = async (session: Session): Promise<string> => {
  if (session.stdin.isTTY)
    throw new CliFailure(exitCodes.usage, "- reads the job from stdin, but stdin is a terminal", {
      next: "cat job.json | renderplane submit -",
    });
  let text = "";
  for await (const chunk of session.stdin.setEncoding("utf8")) {
    text += chunk;
    if (text.length > largestStdin) throw new CliFailure(exitCodes.usage, "stdin: a job is at most 1 MiB of JSON");
  }
  return text;
};
