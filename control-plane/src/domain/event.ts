// Which live messages an event becomes: the Redis channels that requirements 002 and 000 name, with their shapes.
import type { EventRow, JsonObject } from "./records.ts";

export type Announcement = { readonly channel: string; readonly message: JsonObject };

/** alert: somebody should look; alert.critical: now. */
export const announcementsOf = (event: EventRow): Announcement[] => {
  const about = { video_id: event.jobId, timestamp: event.at.toISOString() };
  switch (event.type) {
    case "job.completed":
      return [
        {
          channel: "pipeline:video.completed",
          message: {
            ...about,
            cost: event.body.cost ?? 0,
            metadata: { processing_time: event.body.processing_time ?? 0, stages: event.body.results ?? {} },
          },
        },
      ];
    case "progress":
      return [{ channel: "pipeline:progress", message: event.body }];
    case "job.failed": {
      const failure = event.body.failure as JsonObject | null;
      const isCritical = failure?.severity === "critical";
      return [
        {
          channel: isCritical ? "pipeline:alert.critical" : "pipeline:alert",
          message: {
            ...about,
            type: "job.failed",
            severity: failure?.severity ?? "low",
            stage: failure?.stage ?? null,
            error: failure?.message ?? "",
          },
        },
      ];
    }
    case "job.over_target":
      return [
        {
          channel: "pipeline:alert",
          message: { ...about, type: "job.over_target", severity: "medium", ...event.body },
        },
      ];
    case "job.deadline_missed":
      return [
        {
          channel: "pipeline:alert",
          message: { ...about, type: "job.deadline_missed", severity: "medium", ...event.body },
        },
      ];
    case "pool.valve_closed":
    case "host.identity_copied":
      // Nothing repairs these by itself: a pool that is cut off, a host whose identity somebody else has.
      return [
        {
          channel: "pipeline:alert.critical",
          message: {
            timestamp: event.at.toISOString(),
            host_id: event.hostId,
            type: event.type,
            severity: "critical",
            ...event.body,
          },
        },
      ];
    case "cost.threshold": {
      // Requirements 002 knows two words: everything from 2.80 dollars on is critical.
      const level = event.body.level === "warning" ? "warning" : "critical";
      const message = { ...about, level, threshold: event.body.level ?? "", cost: event.body.total ?? 0 };
      return [
        { channel: "alerts:cost", message },
        {
          channel: level === "critical" ? "pipeline:alert.critical" : "pipeline:alert",
          message: { ...message, type: "cost.threshold" },
        },
      ];
    }
    default:
      return [];
  }
};
