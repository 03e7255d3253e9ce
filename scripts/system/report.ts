// What quickstart prints about a finished video: where it is, how long and large, the seconds of each stage, the cost by service.
// Pure text from the job; the figures are the job's own, so the same job always gives the same report.
import { formatBytes, formatDuration } from "@renderplane/proto/kernel/units.ts";
import { dollarText } from "../../control-plane/src/cli/money.ts";
import { table } from "../../control-plane/src/cli/output.ts";
import type { JobJson } from "../../control-plane/src/cli/shapes.ts";

export const reportVideo = (job: JobJson, video: { readonly path: string; readonly bytes: number }): string => {
  const render = job.stages.find((stage) => stage.name === "video_rendering")?.result;
  const length = typeof render?.duration === "number" ? formatDuration(render.duration * 1000) : "unknown length";
  const size = typeof render?.resolution === "string" ? `, ${render.resolution}` : "";
  const stages = job.stages.map((stage) => [
    stage.name.replaceAll("_", " "),
    stage.elapsed_seconds === null ? "-" : stage.elapsed_seconds.toFixed(1),
  ]);
  const services = new Map<string, number>();
  for (const line of job.costs) services.set(line.service, (services.get(line.service) ?? 0) + line.amount);
  return [
    `Your video: ${video.path}`,
    `            ${length}${size}, ${formatBytes(video.bytes)}`,
    "",
    table(["stage", "seconds"], [...stages, ["all together", (job.elapsed_seconds ?? 0).toFixed(1)]]),
    "",
    table(
      ["service", "cost"],
      [
        ...[...services].map(([name, amount]) => [name, dollarText(amount)]),
        ["all together", dollarText(job.actual_cost)],
      ],
    ),
  ].join("\n");
};

/** The cause of a job that did not become a video. */
export const reportFailure = (job: JobJson): string => {
  const failure = job.failure;
  if (!failure) return `The job ${job.id} is ${job.state}.`;
  const evidence = (failure.evidence ?? "").trim().split("\n").slice(-5).join("\n");
  return [
    `The job ${job.id} failed${failure.stage ? ` in ${failure.stage.replaceAll("_", " ")}` : ""}: ${failure.message}`,
    ...(evidence === "" ? [] : [evidence]),
  ].join("\n");
};
