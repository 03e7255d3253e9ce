// Every sentence that a producer can read about a job.
import { expect, test } from "vitest";
import { about, jobText, type LiveStage } from "./status-text.ts";

const job = { state: "processing", failure: null, cancelRequestedAt: null } as const;
const stage = (change: Partial<LiveStage>): LiveStage => ({
  name: "video_rendering",
  kind: "render",
  state: "running",
  progress: 0,
  etaSeconds: null,
  ...change,
});

test.each([
  ["waiting first", { ...job, state: "queued" }, 1, "Waiting (next)"],
  ["waiting behind others", { ...job, state: "queued" }, 4, "Waiting (3 ahead)"],
  ["waiting somewhere", { ...job, state: "queued" }, -1, "Waiting"],
  ["done", { ...job, state: "completed" }, -1, "Ready"],
  ["cancelled", { ...job, state: "cancelled" }, -1, "Cancelled"],
  [
    "failed",
    { ...job, state: "failed", failure: { failureClass: "input_corrupt", severity: "medium", message: "m" } },
    -1,
    "Needs a person",
  ],
  [
    "over its limit",
    { ...job, state: "failed", failure: { failureClass: "cost_limit", severity: "critical", message: "m" } },
    -1,
    "Stopped: cost limit",
  ],
  ["being cancelled", { ...job, cancelRequestedAt: new Date() }, -1, "Cancelling"],
] as const)("%s", (_what, row, position, text) => {
  expect(jobText(row, position, [])).toBe(text);
});

test.each<[Partial<LiveStage>[], string]>([
  [[{ progress: 0.43, etaSeconds: 125 }], "Rendering 43 % (about 2 min left)"],
  [[{ progress: 0.999, etaSeconds: 4 }], "Rendering 99 % (a few seconds left)"],
  [[{ progress: 0.1 }], "Rendering 10 %"],
  [[{}], "Rendering"],
  [[{ kind: "script", progress: 0.5 }], "Writing the script"],
  [[{ kind: "speech" }], "Recording the voice"],
  [[{ kind: "media" }], "Finding footage"],
  [[{ kind: "validate" }], "Checking quality"],
  [[{ kind: "package" }], "Preparing the upload"],
  [[{ kind: "unheard_of", name: "colour_grading", progress: 0.2 }], "Colour grading 20 %"],
  [
    [
      { kind: "transcode", progress: 0.9, etaSeconds: 5 },
      { kind: "transcode", progress: 0.2, etaSeconds: 300 },
    ],
    "Converting 20 % (about 5 min left)",
  ],
  [[{ state: "succeeded" }, { state: "waiting" }], "Rendering: trying again shortly"],
  [[{ state: "succeeded" }, { state: "ready" }], "Waiting (next: rendering)"],
  [[{ state: "succeeded" }, { state: "pending" }], "In progress"],
])("stages %j", (stages, text) => {
  expect(jobText(job, -1, stages.map(stage))).toBe(text);
});

test("a rest of time is said as a person would", () => {
  expect([3, 11, 54, 60, 90, 3_599, 7_200].map(about)).toEqual([
    "a few seconds",
    "about 20 s",
    "about 60 s",
    "about 1 min",
    "about 2 min",
    "about 60 min",
    "about 2.0 h",
  ]);
});
