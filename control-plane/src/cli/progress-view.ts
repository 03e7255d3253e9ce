// Shows a job while it runs: a bar for each stage where a person looks at a terminal, plain lines everywhere else.
// Draws only on the stream it is given (stderr), so that stdout stays the result.
import { formatDuration } from "@renderplane/proto/kernel/units.ts";
import { MultiBar, type SingleBar } from "cli-progress";
import type { TextStream } from "./output.ts";
import type { JobJson, StageJson } from "./shapes.ts";

export type ProgressView = {
  show(job: JobJson): void;
  /** Says something without tearing the bars. */
  say(text: string): void;
  stop(): void;
};

/** Plain lines: at a change of state, and while running not more often than this. */
const plainPeriodMs = 10_000;
const barWidth = 24;

export const createProgressView = (stream: TextStream, isLive: boolean): ProgressView =>
  isLive ? createBars(stream) : createLines(stream);

const createBars = (stream: TextStream): ProgressView => {
  const bars = new MultiBar(
    {
      stream,
      format: "{name} {bar} {percent} {note}",
      barsize: barWidth,
      barCompleteChar: "█",
      barIncompleteChar: "░",
      hideCursor: true,
      fps: 8,
      linewrap: false,
      gracefulExit: false,
      emptyOnZero: true,
    },
    undefined,
  );
  const byStage = new Map<string, SingleBar>();
  return {
    show: (job) => {
      const width = Math.max(...job.stages.map((stage) => stage.name.length));
      for (const stage of job.stages) {
        const done = stage.state === "succeeded" ? 1 : stage.progress;
        const percent = `${Math.floor(done * 100)} %`.padStart(5);
        const payload = { name: spaced(stage.name).padEnd(width), percent, note: noteOf(stage) };
        const bar = byStage.get(stage.name);
        if (bar) bar.update(Math.round(done * 1000), payload);
        else byStage.set(stage.name, bars.create(1000, Math.round(done * 1000), payload));
      }
      bars.update();
    },
    say: (text) => {
      bars.log(`${text}\n`);
    },
    stop: () => bars.stop(),
  };
};

const createLines = (stream: TextStream): ProgressView => {
  const last = new Map<string, { state: string; at: number; percent: number }>();
  return {
    show: (job) => {
      for (const stage of job.stages) {
        const before = last.get(stage.name);
        const percent = Math.floor(stage.progress * 100);
        const now = performance.now();
        const isNews = before?.state !== stage.state;
        const isDue =
          stage.state === "running" && before?.percent !== percent && now - (before?.at ?? 0) >= plainPeriodMs;
        if (!isNews && !isDue) continue;
        last.set(stage.name, { state: stage.state, at: now, percent });
        if (stage.state === "pending") continue;
        const share = stage.state === "running" ? ` ${percent} %` : "";
        stream.write(`${spaced(stage.name)}:${share} ${noteOf(stage)}\n`);
      }
    },
    say: (text) => void stream.write(`${text}\n`),
    stop: () => {},
  };
};

const spaced = (name: string): string => name.replaceAll("_", " ");

/** What a producer wants to know about a stage right now. */
const noteOf = (stage: StageJson): string => {
  switch (stage.state) {
    case "succeeded":
      return stage.elapsed_seconds === null ? "done" : `done in ${formatDuration(stage.elapsed_seconds * 1000)}`;
    case "running": {
      const left = stage.eta_seconds === null ? "" : `about ${formatDuration(stage.eta_seconds * 1000)} left`;
      const host = stage.attempts.at(-1)?.host;
      const doing = `${stage.step === "" ? "running" : stage.step}${host === undefined ? "" : ` on ${host}`}`;
      return left === "" ? doing : `${doing}, ${left}`;
    }
    case "pending":
      return "waits for an earlier stage";
    case "ready":
      return "waits for a host";
    case "offered":
      return "starting";
    case "waiting":
      return `tries again soon: ${stage.failure?.message ?? stage.attempts.at(-1)?.failure?.message ?? "the last try failed"}`;
    case "failed":
      return `failed: ${stage.failure?.message ?? "no message"}`;
    default:
      return spaced(stage.state);
  }
};
