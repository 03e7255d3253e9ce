// Following a job: live frames move it, events make it ask again, a broken stream resumes after the last event, and without
// any stream, or with a server that is away for a moment, it still reaches the end.
import type { ServerResponse } from "node:http";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { createClient } from "./client.ts";
import { parseBlock } from "./events.ts";
import { followJob } from "./follow-job.ts";
import type { JobJson } from "./shapes.ts";
import { type FakeServer, jobJson, stageJson, startFakeServer } from "./testing.ts";

const path = "/api/v1/jobs/v_01KX0000000000000000000000";
const rendering = (progress: number) =>
  jobJson({ stages: [stageJson("video_rendering", { state: "running", progress })] });
const finished = jobJson({ state: "completed", progress: 1 });

let server: FakeServer;
let current: JobJson;
let streams: ServerResponse[];
const never = new AbortController().signal;

beforeEach(async () => {
  server = await startFakeServer();
  current = rendering(0);
  streams = [];
  server.answer(`GET ${path}`, (_, response) => void response.end(JSON.stringify(current)));
});
afterEach(() => server.close());

const serveEvents = () =>
  server.answer("GET /api/v1/events", (_, response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write("retry: 1000\n\n: hello\n\n");
    streams.push(response);
  });
const send = (id: string, type: string, body: unknown) =>
  streams.at(-1)?.write(`${id === "" ? "" : `id: ${id}\n`}event: ${type}\ndata: ${JSON.stringify({ type, body })}\n\n`);

const until = async (condition: () => boolean) => {
  const end = performance.now() + 10_000;
  while (!condition()) {
    if (performance.now() > end) throw new Error("the condition did not come true in 10 s");
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
};

const follow = (seen: JobJson[], troubles: string[] = []) =>
  followJob(createClient(server.url, never), current.id, {
    signal: never,
    onJob: (job) => seen.push(job),
    onTrouble: (text) => troubles.push(text),
  });

describe("following a job", () => {
  test("live frames move a running stage at once and never back; the event at the end ends it", async () => {
    serveEvents();
    const seen: JobJson[] = [];
    const end = follow(seen);
    await until(() => streams.length === 1);
    send("", "progress", {
      stage: "video_rendering",
      stage_progress: 0.4,
      progress: 30,
      step: "frame 400",
      eta_seconds: 9,
    });
    await until(() => seen.at(-1)?.stages[0]?.progress === 0.4);
    expect(seen.at(-1)?.stages[0]).toMatchObject({ step: "frame 400", eta_seconds: 9 });
    current = rendering(0.2);
    send("7", "stage.started", {});
    await until(() => server.requests.filter((r) => r.route === `GET ${path}`).length === 2);
    await until(() => seen.length === 3);
    expect(seen.at(-1)?.stages[0]?.progress).toBe(0.4);
    current = finished;
    send("8", "job.completed", {});
    expect((await end).state).toBe("completed");
  });

  test("a broken stream is opened again after the last event that came", async () => {
    serveEvents();
    const end = follow([]);
    await until(() => streams.length === 1);
    send("41", "stage.started", {});
    await until(() => server.requests.filter((r) => r.route === `GET ${path}`).length === 2);
    streams[0]?.destroy();
    await until(() => streams.length === 2);
    expect(server.requests.filter((r) => r.route === "GET /api/v1/events").at(-1)?.headers["last-event-id"]).toBe("41");
    current = finished;
    send("42", "job.completed", {});
    await end;
  });

  test("without a stream it asks again and again", async () => {
    const seen: JobJson[] = [];
    const end = follow(seen);
    await until(() => seen.length === 2);
    current = finished;
    expect((await end).state).toBe("completed");
  });

  test("a server that is away for a moment is waited for, and the person is told once", async () => {
    const troubles: string[] = [];
    let away = 2;
    let asked = 0;
    server.answer(`GET ${path}`, (_, response) => {
      asked++;
      if (asked > 1 && away-- > 0) return void response.writeHead(503).end("{}");
      response.end(JSON.stringify(asked > 1 ? finished : current));
    });
    expect((await follow([], troubles)).state).toBe("completed");
    expect(troubles).toHaveLength(1);
  });

  test("a job that is unknown ends it at once", async () => {
    server.answer(`GET ${path}`, { status: 404, body: { code: "job_not_found", detail: "There is no such job." } });
    await expect(follow([])).rejects.toMatchObject({ exitCode: 3 });
  });
});

describe("event blocks", () => {
  test.each([
    ['id: 3\nevent: a\ndata: {"x":1}', { id: "3", type: "a", data: { x: 1 } }],
    ["data: [1,\ndata: 2]", { id: "", type: "message", data: [1, 2] }],
    [": still here", undefined],
    ["event: a", undefined],
    ["data: not json", undefined],
  ])("%j", (block, event) => {
    expect(parseBlock(block)).toEqual(event);
  });
});
