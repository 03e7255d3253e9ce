// renderplane list: the newest jobs, one line each.
import { formatDuration } from "@renderplane/proto/kernel/units.ts";
import { CliFailure, type ExitCode, exitCodes } from "../failure.ts";
import { dollarText } from "../money.ts";
import { ago, table } from "../output.ts";
import type { JobItemJson, Page } from "../shapes.ts";
import type { Session } from "./session.ts";

/** What the server gives in one page. */
const largestPage = 200;

export const listJobs = async (
  session: Session,
  options: { state?: string | undefined; pipeline?: string | undefined; limit: string },
): Promise<ExitCode> => {
  const limit = Number(options.limit);
  if (!Number.isInteger(limit) || limit < 1 || limit > largestPage)
    throw new CliFailure(exitCodes.usage, `--limit is a whole number from 1 to ${largestPage}, got ${options.limit}`);
  const query = new URLSearchParams({ limit: `${limit}` });
  if (options.state !== undefined) query.set("state", options.state);
  if (options.pipeline !== undefined) query.set("pipeline", options.pipeline);
  const page = await session.client.get<Page<JobItemJson>>(`/api/v1/jobs?${query}`);
  const { output } = session;
  if (output.json(page.items)) return exitCodes.ok;
  if (page.items.length === 0) {
    output.note(
      options.state === undefined ? "No jobs yet. Try: renderplane submit FILE" : `No job is ${options.state}.`,
    );
    return exitCodes.ok;
  }
  const now = new Date();
  const rows = page.items.map((job) => [
    job.id,
    job.state,
    job.pipeline,
    job.progress === null ? "-" : `${Math.floor(job.progress * 100)} %`,
    job.elapsed_seconds === null ? "-" : formatDuration(job.elapsed_seconds * 1000),
    dollarText(job.actual_cost),
    ago(job.created_at, now),
    job.status_text,
  ]);
  output.result(table(["id", "state", "pipeline", "progress", "took", "cost", "submitted", "status"], rows));
  if (page.next_cursor) output.note(`More exist; see them with --limit (at most ${largestPage}).`);
  return exitCodes.ok;
};
