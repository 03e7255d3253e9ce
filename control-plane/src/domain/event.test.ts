// Which events become live messages: what needs a person at once goes to the critical channel, everyday events to none.
import { expect, test } from "vitest";
import { announcementsOf } from "./event.ts";
import type { EventRow } from "./records.ts";

const event = (type: string, change: Partial<EventRow> = {}): EventRow => ({
  seq: 1n,
  type,
  jobId: null,
  hostId: null,
  isTerminal: false,
  body: {},
  at: new Date("2026-01-02T03:04:05.678Z"),
  ...change,
});

test("a pool that is cut off and a copied identity are announced as critical, with what they are about", () => {
  expect(announcementsOf(event("pool.valve_closed", { body: { pool: "gpu", silent: 7 } }))).toEqual([
    {
      channel: "pipeline:alert.critical",
      message: {
        timestamp: "2026-01-02T03:04:05.678Z",
        host_id: null,
        type: "pool.valve_closed",
        severity: "critical",
        pool: "gpu",
        silent: 7,
      },
    },
  ]);
  const [copied] = announcementsOf(event("host.identity_copied", { hostId: "h_1" }));
  expect([copied?.channel, copied?.message.host_id]).toEqual(["pipeline:alert.critical", "h_1"]);
});

test("everyday events are not announced", () => {
  for (const type of ["stage.offered", "stage.started", "host.online", "job.queued"])
    expect(announcementsOf(event(type))).toEqual([]);
});
