// The one line that a producer reads about a job, from the words that were agreed for producers. No codes, hosts or traces.
// It explains what happens now; why a job waits in detail is the explanation's. Pure.
import { isLeased, type StageState } from "@renderplane/proto/kernel/stage-state.ts";
import { exactPlaces } from "../domain/queue-order.ts";
import type { JobRow } from "../domain/records.ts";

export type LiveStage = {
  readonly name: string;
  readonly kind: string;
  readonly state: StageState;
  readonly progress: number;
  readonly etaSeconds: number | null;
};

/** By stage kind: what happens, and whether a percentage says something (the others take seconds). */
const words: { readonly [kind: string]: { readonly text: string; readonly hasPercent: boolean } } = {
  script: { text: "Writing the script", hasPercent: false },
  speech: { text: "Recording the voice", hasPercent: false },
  media: { text: "Finding footage", hasPercent: false },
  render: { text: "Rendering", hasPercent: true },
  transcode: { text: "Converting", hasPercent: true },
  validate: { text: "Checking quality", hasPercent: false },
  validate_ladder: { text: "Checking quality", hasPercent: false },
  package: { text: "Preparing the upload", hasPercent: false },
};

export const jobText = (
  job: Pick<JobRow, "state" | "failure" | "cancelRequestedAt">,
  position: number,
  stages: readonly LiveStage[],
): string => {
  switch (job.state) {
    case "completed":
      return "Ready";
    case "cancelled":
      return "Cancelled";
    case "failed":
      return job.failure?.failureClass === "cost_limit" ? "Stopped: cost limit" : "Needs a person";
    case "queued":
      return job.cancelRequestedAt
        ? "Cancelling"
        : position > 1
          ? `Waiting (${position - 1}${position > exactPlaces ? " or more" : ""} ahead)`
          : position === 1
            ? "Waiting (next)"
            : "Waiting";
    case "processing":
      return job.cancelRequestedAt ? "Cancelling" : processingText(stages);
  }
};

const processingText = (stages: readonly LiveStage[]): string => {
  // The slowest of parallel stages decides when the job goes on, so it is the one to name.
  const running = stages
    .filter((s) => isLeased(s.state))
    .sort((a, b) => (b.etaSeconds ?? 0) - (a.etaSeconds ?? 0) || a.progress - b.progress)[0];
  if (running) return runningText(running);
  const resting = stages.find((s) => s.state === "waiting");
  if (resting) return `${wordOf(resting)}: trying again shortly`;
  const next = stages.find((s) => s.state === "ready" || s.state === "blocked");
  return next ? `Waiting (next: ${wordOf(next).toLowerCase()})` : "In progress";
};

const runningText = (stage: LiveStage): string => {
  const percent =
    words[stage.kind]?.hasPercent === false || stage.progress <= 0 ? "" : ` ${Math.floor(stage.progress * 100)} %`;
  const left = stage.etaSeconds === null || percent === "" ? "" : ` (${about(stage.etaSeconds)} left)`;
  return `${wordOf(stage)}${percent}${left}`;
};

const wordOf = (stage: LiveStage): string => {
  const plain = stage.name.replaceAll("_", " ");
  return words[stage.kind]?.text ?? plain.charAt(0).toUpperCase() + plain.slice(1);
};

/** Rounded as a person would say it; a falling figure must not pretend to be exact. */
export const about = (seconds: number): string => {
  if (seconds < 10) return "a few seconds";
  if (seconds < 55) return `about ${Math.ceil(seconds / 10) * 10} s`;
  if (seconds < 3_600) return `about ${Math.max(1, Math.round(seconds / 60))} min`;
  return `about ${(seconds / 3_600).toFixed(1)} h`;
};
