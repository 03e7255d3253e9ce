// renderplane view: everything about one job on one screen: its stages, attempts that went wrong, what it cost.

import { formatDuration } from "@renderplane/proto/kernel/units.ts";
import { type ExitCode, exitCodes } from "../failure.ts";
import { dollarText } from "../money.ts";
import { ago, table } from "../output.ts";
import type { JobJson, StageJson } from "../shapes.ts";
import type { Session } from "./session.ts";

export const viewJob = async (session: Session, id: string): Promise<ExitCode> => {
  const job = await session.client.get<JobJson>(`/api/v1/jobs/${encodeURIComponent(id)}`);
  const { output } = session;
  if (output.json(job)) return exitCodes.ok;
  const facts = [
    ["id", job.id],
    ["state", `${job.state} (${job.status_text})`],
    ["pipeline", `${job.pipeline}, ${job.complexity}, priority ${job.priority}`],
    ["submitted", `${ago(job.created_at, new Date())} by ${job.user_id} for ${job.channel_id}`],
    ...(job.position > 0 ? [["place", `${job.position} in the queue`]] : []),
    ...(job.eta?.finish ? [["ready", `${job.eta.finish.earliest} to ${job.eta.finish.latest}`]] : []),
    ...(job.deadline ? [["deadline", job.deadline]] : []),
    ["took", job.elapsed_seconds === null ? "-" : formatDuration(job.elapsed_seconds * 1000)],
    ["cost", `${dollarText(job.actual_cost)} (est. ${dollarText(job.estimated_cost)})`],
  ];
  for (const [name = "", value = ""] of facts) output.result(`${output.paint("dim", name.padEnd(10))} ${value}`);
  if (job.failure) output.result(`${output.paint("red", "failed".padEnd(10))} ${job.failure.message}`);
  output.result("");
  output.result(
    table(
      ["stage", "state", "progress", "took", "cost", "tries", "host", "note"],
      job.stages.map((stage) => [
        stage.name,
        stage.state,
        `${Math.floor((stage.state === "succeeded" ? 1 : stage.progress) * 100)} %`,
        stage.elapsed_seconds === null ? "-" : formatDuration(stage.elapsed_seconds * 1000),
        dollarText(stage.actual_cost),
        `${stage.tries}`,
        stage.attempts.at(-1)?.host ?? "-",
        noteOf(stage),
      ]),
    ),
  );
  if (job.costs.length > 0) {
    output.result("");
    output.result(
      table(
        ["service", "provider", "cost"],
        job.costs.map((line) => [line.service, line.provider, dollarText(line.amount)]),
      ),
    );
  }
  if (job.state === "queued") output.note(`Next: renderplane explain ${job.id}`);
  return exitCodes.ok;
};

const noteOf = (stage: StageJson): string => {
  const failure = stage.failure ?? (stage.state === "succeeded" ? null : stage.attempts.at(-1)?.failure);
  return failure ? `${failure.class}: ${failure.message}` : stage.step;
};
