// renderplane cancel: ends jobs. Several ids are tried one by one; the exit code is that of the first that could not be.
import { CliFailure, type ExitCode, exitCodes } from "../failure.ts";
import { describeFailure } from "../output.ts";
import type { Session } from "./session.ts";

export const cancelJobs = async (
  session: Session,
  ids: readonly string[],
  options: { reason: string },
): Promise<ExitCode> => {
  const { client, output } = session;
  const results: { id: string; cancelled: boolean; error?: string }[] = [];
  let exitCode: ExitCode = exitCodes.ok;
  for (const id of ids) {
    try {
      await client.post(`/api/v1/jobs/${encodeURIComponent(id)}/cancel`, { reason: options.reason });
      results.push({ id, cancelled: true });
      output.note(`${output.paint("green", "✓")} ${id} is being cancelled.`);
    } catch (error) {
      if (!(error instanceof CliFailure)) throw error;
      // Nothing else will be reached either.
      if (error.exitCode === exitCodes.unreachable) throw error;
      if (exitCode === exitCodes.ok) exitCode = error.exitCode;
      results.push({ id, cancelled: false, error: error.message });
      output.note(`${output.paint("red", "✗")} ${id}: ${describeFailure(error)}`);
    }
  }
  const first = results.find((r) => r.cancelled);
  if (!output.json(results)) {
    for (const { id } of results.filter((r) => r.cancelled)) output.result(id);
    if (first) output.note(`Next: renderplane view ${first.id}`);
  }
  return exitCode;
};
