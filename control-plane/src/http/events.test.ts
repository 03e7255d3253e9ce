// The event stream over real sockets: resume, topics, live progress, slow readers, heartbeat; and the feed behind it.
import { connect } from "node:net";
import { silentLogger } from "@renderplane/proto/kernel/process/logger.ts";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createMemoryBus } from "../bus/memory.ts";
import type { EventRow } from "../domain/records.ts";
import { eventually, openTestEdge, type TestEdge } from "../testing/http-edge.ts";
import { createEventFeed } from "./event-feed.ts";
import { problemSchema } from "./problem.ts";

let it: TestEdge;
beforeAll(async () => {
  it = await openTestEdge({ options: { heartbeatMs: 200 } });
});
afterAll(() => it.close());

type Frame = { readonly id: string | undefined; readonly event: string; readonly data: Record<string, unknown> };
type Stream = {
  readonly frames: Frame[];
  readonly text: () => string;
  isOver: () => boolean;
  close(): void;
  readonly answer: Response;
};

const follow = async (edge: TestEdge, query = "", headers: Record<string, string> = {}): Promise<Stream> => {
  const abort = new AbortController();
  const answer = await fetch(`${edge.url}/api/v1/events${query}`, { headers, signal: abort.signal });
  const frames: Frame[] = [];
  let text = "";
  let isOver = false;
  const read = async () => {
    let rest = "";
    for await (const chunk of answer.body ?? []) {
      const piece = Buffer.from(chunk).toString("utf8");
      text += piece;
      const blocks = (rest + piece).split("\n\n");
      rest = blocks.pop() ?? "";
      for (const block of blocks) {
        const field = (name: string) =>
          block
            .split("\n")
            .find((line) => line.startsWith(`${name}: `))
            ?.slice(name.length + 2);
        const data = field("data");
        if (data !== undefined)
          frames.push({
            id: field("id"),
            event: field("event") ?? "",
            data: JSON.parse(data) as Record<string, unknown>,
          });
      }
    }
  };
  read()
    .catch(() => {})
    .finally(() => {
      isOver = true;
    });
  return { frames, text: () => text, isOver: () => isOver, close: () => abort.abort(), answer };
};
const submit = () => it.submit({ pipeline: "pair" });

describe("the stream", () => {
  test("a new event arrives with number, type and body, soon after it is published", async () => {
    const stream = await follow(it);
    expect(stream.answer.headers.get("content-type")).toBe("text/event-stream; charset=utf-8");
    expect(stream.answer.headers.get("cache-control")).toBe("no-store");
    expect(stream.answer.headers.get("x-accel-buffering")).toBe("no");
    const id = await submit();
    await it.relay();
    const frame = await eventually(() => stream.frames.find((f) => f.data.job_id === id));
    expect(frame).toMatchObject({
      event: "job.queued",
      data: { type: "job.queued", terminal: false, body: { pipeline: "pair" } },
    });
    expect(frame.id).toBe(String(frame.data.seq));
    expect(stream.text().startsWith("retry: 2000\n\n")).toBe(true);
    stream.close();
  });

  test("Last-Event-ID brings everything after it, once and in order, while new events go on", async () => {
    const first = await follow(it);
    const ids = [await submit(), await submit(), await submit()];
    await it.relay();
    const seen = await eventually(() =>
      first.frames.filter((f) => ids.includes(String(f.data.job_id))).length === 3 ? first.frames : undefined,
    );
    first.close();
    const from = seen.find((f) => f.data.job_id === ids[0])?.id ?? "";
    ids.push(await submit());
    const again = await follow(it, "", { "last-event-id": from });
    await it.relay();
    ids.push(await submit());
    await it.relay();
    await eventually(() => again.frames.some((f) => f.data.job_id === ids[4]));
    expect(again.frames.map((f) => f.data.job_id)).toEqual(ids.slice(1));
    again.close();
  });

  test("topics choose: one job by any of its ids, or hosts", async () => {
    const mine = await it.submit({ pipeline: "pair", external_id: "their-id" });
    const one = await follow(it, "?topics=job:their-id");
    const hosts = await follow(it, "?topics=hosts");
    await it.relay();
    await submit();
    await it.post(`/api/v1/jobs/${mine}/cancel`, {});
    await it.engine.host("gpx");
    await it.relay();
    await eventually(() => one.frames.some((f) => f.data.terminal === true));
    await eventually(() => hosts.frames.length > 0);
    expect(new Set(one.frames.map((f) => f.data.job_id))).toEqual(new Set([mine]));
    expect(one.frames.at(-1)?.event).toBe("job.cancelled");
    expect(hosts.frames.map((f) => f.event)).toEqual(["host.online"]);
    one.close();
    hosts.close();
  });

  test("live progress comes without a number, and progress after a stage only from the log", async () => {
    const id = await submit();
    const other = await submit();
    await it.relay();
    const stream = await follow(it, `?topics=job:${id}`);
    const live = {
      video_id: id,
      stage: "first",
      progress: 20,
      stage_progress: 0.4,
      eta_seconds: 3,
      timestamp: "2026-01-01T00:00:00.000Z",
    };
    await eventually(() => {
      it.ctx.bus.publish("pipeline:progress", { ...live, video_id: other });
      it.ctx.bus.publish("pipeline:progress", {
        video_id: id,
        stage: "first",
        progress: 50,
        timestamp: live.timestamp,
      });
      it.ctx.bus.publish("pipeline:progress", live);
      return stream.frames.length > 0;
    });
    expect(stream.frames.every((f) => f.id === undefined && f.event === "progress")).toBe(true);
    expect(stream.frames[0]?.data).toEqual(live);
    stream.close();
  });

  test("a heartbeat keeps the line alive", async () => {
    const stream = await follow(it, "?topics=hosts");
    await eventually(() => stream.text().includes(": still here\n\n"));
    stream.close();
  });

  test.each([
    ["?topics=weather", 422, "invalid_request"],
    ["?topics=job:v_none", 404, "job_not_found"],
    [`?topics=${Array.from({ length: 51 }, () => "jobs").join(",")}`, 422, "invalid_request"],
    ["?last_event_id=abc", 422, "invalid_request"],
  ])("%s is refused", async (query, status, code) => {
    const answer = await it.get(`/api/v1/events${query}`);
    expect(problemSchema.parse(await answer.json())).toMatchObject({ status, code });
  });

  test("a client that does not read is closed, and others go on", async () => {
    const other = await openTestEdge();
    const socket = connect(Number(new URL(other.url).port), "127.0.0.1");
    socket.write("GET /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
    socket.pause();
    const reader = await follow(other);
    const jobId = await other.submit({ pipeline: "pair" });
    await other.relay();
    await eventually(() => reader.frames.length > 0);
    const { appendEvents } = await import("../store/events.ts");
    const filler = "x".repeat(100_000);
    const open = async () => (await (await other.get("/metrics")).text()).includes("pipeline_api_open_streams 1\n");
    let sent = 0;
    await eventually(async () => {
      await appendEvents(other.ctx.db.direct, [{ type: "job.noise", jobId, body: { filler } }]);
      await other.relay();
      sent += 1;
      return open();
    });
    await eventually(() => reader.frames.filter((f) => f.event === "job.noise").length === sent);
    expect(reader.isOver()).toBe(false);
    socket.destroy();
    reader.close();
    await other.close();
  });
});

describe("the feed", () => {
  const event = (seq: number): EventRow => ({
    seq: BigInt(seq),
    type: "job.queued",
    jobId: "v_1",
    hostId: null,
    isTerminal: false,
    body: {},
    at: new Date(0),
  });
  const open = async (rows: EventRow[], fail: () => boolean = () => false) => {
    const bus = createMemoryBus();
    await bus.start();
    const feed = createEventFeed(
      bus,
      {
        eventsAfter: async ({ seq, limit }) => {
          if (fail()) throw new Error("away");
          return rows.filter((row) => row.seq > seq).slice(0, limit);
        },
        lastEventSeq: async () => rows.at(-1)?.seq ?? 0n,
      },
      silentLogger(),
    );
    await feed.start();
    return { bus, feed };
  };
  const listener = () => {
    const seen: number[] = [];
    let dropped = 0;
    return {
      seen,
      dropped: () => dropped,
      listener: {
        onEvent: (e: EventRow) => void seen.push(Number(e.seq)),
        onProgress: () => {},
        onDropped: () => void dropped++,
      },
    };
  };

  test("listeners that come at any time see every later event once, in order", async () => {
    const rows: EventRow[] = Array.from({ length: 1_300 }, (_, i) => event(i + 1));
    const { bus, feed } = await open(rows);
    const all = listener();
    const live = listener();
    const late = listener();
    feed.listen(all.listener, 0n);
    feed.listen(live.listener);
    feed.listen(late.listener, 1_290n);
    await eventually(() => all.seen.length === 1_300);
    for (let i = 1_301; i <= 1_320; i++) {
      rows.push(event(i));
      bus.ring("events");
      if (i % 5 === 0) await new Promise((resolve) => setImmediate(resolve));
    }
    await eventually(() => live.seen.length === 20 && late.seen.length === 30 && all.seen.length === 1_320);
    expect(all.seen).toEqual(rows.map((row) => Number(row.seq)));
    expect(live.seen).toEqual(Array.from({ length: 20 }, (_, i) => 1_301 + i));
    expect(late.seen).toEqual(Array.from({ length: 30 }, (_, i) => 1_291 + i));
    await feed.stop();
    expect([all.dropped(), live.dropped(), late.dropped()]).toEqual([1, 1, 1]);
  });

  test("a number from the future starts from now, and lost bells cost a second at most", async () => {
    const rows = [event(1)];
    const { feed } = await open(rows);
    const one = listener();
    feed.listen(one.listener, 999n);
    await new Promise((resolve) => setImmediate(resolve));
    await eventually(async () => {
      if (rows.length === 1) rows.push(event(2));
      return one.seen.length > 0;
    });
    expect(one.seen).toEqual([2]);
    await feed.stop();
  });

  test("a log that cannot be read drops who is being brought up to date, and who is live waits", async () => {
    let isAway = false;
    const rows = [event(1)];
    const { bus, feed } = await open(rows, () => isAway);
    const live = listener();
    feed.listen(live.listener, 0n);
    await eventually(() => live.seen.length === 1);
    isAway = true;
    const late = listener();
    feed.listen(late.listener, 0n);
    await eventually(() => late.dropped() === 1);
    isAway = false;
    rows.push(event(2));
    await eventually(() => {
      bus.ring("events");
      return live.seen.length === 2;
    });
    expect(live.dropped()).toBe(0);
    await feed.stop();
  });
});
