// renderplane watch, and the waiting part of submit --wait: progress on stderr until the job ends, then one line of result.
// Ctrl-C leaves the job alone and says how to look again.
import { formatDuration, parseDurationMs } from "@renderplane/proto/kernel/units.ts";
import { CliFailure, type ExitCode, exitCodes, exitOfJob } from "../failure.ts";
import { followJob } from "../follow-job.ts";
import { dollarText } from "../money.ts";
import { createProgressView } from "../progress-view.ts";
import type { JobJson } from "../shapes.ts";
import type { Session } from "./session.ts";

export const watchJob = async (
  session: Session,
  id: string,
  options: { timeout?: string | undefined },
): Promise<ExitCode> => {
  const limit = options.timeout === undefined ? undefined : AbortSignal.timeout(parseTimeoutMs(options.timeout));
  const view = createProgressView(session.streams.stderr, session.output.isLive);
  let job: JobJson;
  try {
    job = await followJob(session.client, id, {
      signal: AbortSignal.any([session.signal, ...(limit ? [limit] : [])]),
      onJob: view.show,
      onTrouble: view.say,
    });
  } catch (error) {
    if (session.signal.aborted)
      throw new CliFailure(exitCodes.interrupted, "Detached; the job keeps running.", {
        next: `renderplane watch ${id}`,
        cause: error,
      });
    if (limit?.aborted)
      throw new CliFailure(exitCodes.timedOut, `${id} did not end within ${options.timeout}; it keeps running.`, {
        next: `renderplane watch ${id}`,
        cause: error,
      });
    throw error;
  } finally {
    view.stop();
  }
  if (!session.output.json(job)) session.output.result(endLine(session.client.server, job));
  if (job.failure && job.state !== "completed") session.output.note(job.failure.message);
  return exitOfJob(job);
};

/** "v_01KX…  completed  6 m 41 s  $2.13  http://…": id first, so that a script can cut it. */
const endLine = (server: string, job: JobJson): string =>
  [
    job.id,
    job.state,
    formatDuration((job.elapsed_seconds ?? 0) * 1000),
    dollarText(job.actual_cost),
    `${server}/api/v1/jobs/${job.id}${job.state === "completed" ? "/artifacts" : ""}`,
  ].join("  ");

/** Throws a usage failure that says how a duration is written. */
export const parseTimeoutMs = (text: string): number => {
  try {
    return parseDurationMs(text);
  } catch (error) {
    throw new CliFailure(exitCodes.usage, `--timeout: ${error instanceof Error ? error.message : String(error)}`);
  }
};
