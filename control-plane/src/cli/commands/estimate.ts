// renderplane submit --dry-run: what the job would become, printed; nothing is submitted and no file is sent.
import { type ExitCode, exitCodes } from "../failure.ts";
import { dollarText } from "../money.ts";
import { table } from "../output.ts";
import type { EstimateJson } from "../shapes.ts";
import type { SubmissionBody } from "../submission.ts";
import type { Session } from "./session.ts";

/** A job that would be refused exits as the submission would have. */
export const estimateJob = async (session: Session, body: SubmissionBody): Promise<ExitCode> => {
  const answer = await session.client.post<EstimateJson>("/api/v1/estimates", body);
  const { output } = session;
  const exitCode = !answer.valid ? exitCodes.usage : answer.queue.is_full ? exitCodes.rateLimited : exitCodes.ok;
  if (output.json(answer)) return exitCode;
  if (!answer.valid) {
    output.note(`${output.paint("red", "✗")} It would be refused: ${answer.reason}`);
    for (const error of answer.errors) output.note(`  ${error.pointer}: ${error.detail}`);
    return exitCode;
  }
  const basis =
    answer.basis === "history"
      ? "from the last jobs of its lane"
      : "from the pipeline's target; no job of its lane has ended yet";
  const rows = [
    ["job", `${answer.pipeline}, ${answer.complexity}`],
    [
      "place",
      `${answer.position} in a queue of ${answer.queue.depth}${answer.queue.is_full ? " (full: it would be refused)" : ""}`,
    ],
    [
      "begins",
      answer.start
        ? `${answer.start.earliest} to ${answer.start.latest}`
        : "not said: a stage has no host that can take it",
    ],
    ["ends", answer.finish ? `${answer.finish.earliest} to ${answer.finish.latest} (${basis})` : "-"],
    [
      "cost",
      `${dollarText(answer.cost.low)} to ${dollarText(answer.cost.high)}, est. ${dollarText(answer.cost.estimate)}, stops at ${dollarText(answer.cost.limit)}`,
    ],
    ["hosts", `${answer.hosts} can take every stage`],
  ];
  for (const [name = "", value = ""] of rows) output.result(`${output.paint("dim", name.padEnd(8))} ${value}`);
  output.result("");
  output.result(
    table(
      ["stage", "hosts", "free now", "the others"],
      answer.stages.map((stage) => [
        stage.stage,
        `${stage.hosts}`,
        `${stage.hosts_now}`,
        stage.reasons.map((r) => `${r.hosts} ${r.rule} (${r.example})`).join("; ") || "-",
      ]),
    ),
  );
  output.note("Nothing was submitted.");
  return exitCode;
};
