// Each row of the table from events to metrics, and the children that exist before anything happened.
import { Registry } from "prom-client";
import { expect, test } from "vitest";
import type { EventRow, JsonObject } from "../domain/records.ts";
import { createEventMetrics } from "./from-events.ts";

const open = () => {
  const registry = new Registry();
  const metrics = createEventMetrics(registry, ["video_rendering"]);
  const observe = (type: string, body: JsonObject) => {
    const event: EventRow = { seq: 1n, type, jobId: "v_1", hostId: null, isTerminal: false, body, at: new Date(0) };
    metrics.observe(event);
  };
  const lines = async () => (await registry.metrics()).split("\n");
  return { observe, lines };
};

test.each<[string, JsonObject, string]>([
  [
    "job.completed",
    { complexity: "premium" },
    'pipeline_videos_processed_total{status="completed",complexity="premium"} 1',
  ],
  ["job.failed", { complexity: "unheard of" }, 'pipeline_videos_processed_total{status="failed",complexity="other"} 1'],
  ["job.cancelled", {}, 'pipeline_videos_processed_total{status="cancelled",complexity="other"} 1'],
  ["job.completed", { processing_time: 130 }, 'pipeline_video_processing_seconds_bucket{le="180"} 1'],
  ["job.completed", { cost: 2.2 }, 'pipeline_video_cost_dollars_bucket{le="2.5"} 1'],
  ["stage.completed", { stage: "video_rendering" }, 'pipeline_stage_total{stage="video_rendering",status="success"} 1'],
  ["stage.failed", { stage: "video_rendering" }, 'pipeline_stage_total{stage="video_rendering",status="failure"} 1'],
  ["stage.retrying", { stage: "of an older version" }, 'pipeline_stage_total{stage="other",status="failure"} 1'],
  [
    "stage.retrying",
    { stage: "video_rendering", failure: { failureClass: "gpu_oom" } },
    'pipeline_stage_errors_total{stage="video_rendering",error_type="gpu_oom",severity="critical"} 1',
  ],
  [
    "stage.failed",
    { stage: "video_rendering", failure: { failureClass: "new in a later version" } },
    'pipeline_stage_errors_total{stage="video_rendering",error_type="unknown",severity="low"} 1',
  ],
  ["cost.threshold", { level: "critical" }, 'pipeline_cost_threshold_breaches_total{threshold_level="critical"} 1'],
])("%s %j moves its metric, which was there with 0", async (type, body, line) => {
  const { observe, lines } = open();
  expect(await lines()).toContain(line.replace(/ 1$/, " 0"));
  observe(type, body);
  expect(await lines()).toContain(line);
});

test("an event without a row, and odd bodies, count nothing and add no series", async () => {
  const { observe, lines } = open();
  const before = await lines();
  observe("stage.ready", {});
  observe("cost.threshold", { level: "made up" });
  observe("host.online", { stage: "x" });
  expect(await lines()).toEqual(before);
});
