// The older paths with the exact shapes of requirements 002, over real HTTP and WebSocket connections.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { WebSocket } from "ws";
import { eventually, openTestEdge, type TestEdge } from "../testing/http-edge.ts";
import { problemSchema } from "./problem.ts";

let it: TestEdge;
beforeAll(async () => {
  it = await openTestEdge();
});
afterAll(() => it.close());

const flat = { user_id: "u1", channel_id: "c1", script: "One sentence." };

describe("[S189] POST /pipeline/queue", () => {
  test("[S189] a flat request is queued and answers exactly video_id, position, estimated_cost, estimated_time", async () => {
    const other = await openTestEdge();
    const answer = await other.post("/pipeline/queue", { ...flat, priority: 8, complexity: "premium", duration: 90 });
    expect(answer.status).toBe(200);
    const body = (await answer.json()) as Record<string, unknown>;
    expect(body).toEqual({ video_id: body.video_id, position: 1, estimated_cost: 2.8, estimated_time: 600 });
    expect(body.video_id).toMatch(/^v_[0-9A-Z]{26}$/);
    const job = (await (await other.get(`/api/v1/jobs/${body.video_id}`)).json()) as Record<string, unknown>;
    expect(job).toMatchObject({
      pipeline: "narrated-video",
      user_id: "u1",
      channel_id: "c1",
      priority: 8,
      complexity: "premium",
    });
    await other.close();
  });

  test.each([
    ["no script and no prompt", { user_id: "u", channel_id: "c" }, "request needs one of script, prompt"],
    ["a wrong priority", { ...flat, priority: "high" }, "priority must be"],
    ["an unknown pipeline", { ...flat, pipeline: "nope" }, "does not exist"],
    ["a list", [1], "must be a"],
    ["broken JSON", "{", "The body is not JSON"],
    ["a prompt without a provider", { user_id: "u", channel_id: "c", prompt: "Night sky" }, "OPENAI_API_KEY"],
  ])("[S189] %s is 400 with a detail and the fields of a problem", async (_what, body, detail) => {
    const answer = await it.post("/pipeline/queue", body);
    expect(answer.status).toBe(400);
    const problem = problemSchema.parse(await answer.json());
    expect(problem.detail).toContain(detail);
    expect(problem.status).toBe(400);
  });

  test("[S189] a full queue is 400 too, as these clients know it, and says when to come back", async () => {
    const other = await openTestEdge({ settings: { queueDepth: 1 } });
    expect((await other.post("/pipeline/queue", flat)).status).toBe(200);
    const answer = await other.post("/pipeline/queue", flat);
    expect([answer.status, answer.headers.get("retry-after")]).toEqual([400, "30"]);
    await other.close();
  });
});

describe("GET /pipeline/status/{video_id}", () => {
  const statusOf = async (edge: TestEdge, id: string) => (await edge.get(`/pipeline/status/${id}`)).json();

  test("[S190] answers exactly the fields of the older interface, from queued to the end", async () => {
    const other = await openTestEdge();
    const id = await other.submit({
      pipeline: "pair",
      priority: 6,
      external_id: "8f14e45f-ceea-467f-a9e6-7c2f1f1b3d5c",
    });
    expect(await statusOf(other, id)).toEqual({
      video_id: id,
      status: "queued",
      priority: 6,
      complexity: "simple",
      estimated_cost: 1,
      actual_cost: 0,
      processing_time: null,
      started_at: null,
      completed_at: null,
    });
    const host = await other.engine.host("render1");
    const [offer] = await other.engine.offers(host);
    if (!offer) throw new Error("nothing was offered");
    await other.engine.accept(host, offer);
    expect(await statusOf(other, "8f14e45f-ceea-467f-a9e6-7c2f1f1b3d5c")).toMatchObject({
      video_id: "8f14e45f-ceea-467f-a9e6-7c2f1f1b3d5c",
      status: "processing",
      started_at: expect.stringMatching(/^\d{4}-\d\d-\d\dT/),
      completed_at: null,
    });
    await other.engine.finish(host.hostId, offer);
    const [second] = await other.engine.offers(host);
    if (!second) throw new Error("the second stage was not offered");
    await other.engine.accept(host, second);
    await other.engine.finish(host.hostId, second, {
      usage: [{ service: "openai", provider: "openai", unit: "token", quantity: 1000 }],
    });
    const done = (await statusOf(other, id)) as Record<string, unknown>;
    expect(done).toMatchObject({
      status: "completed",
      completed_at: expect.any(String),
      processing_time: expect.any(Number),
    });
    expect(done.actual_cost).toBeGreaterThan(0);
    await other.close();
  });

  test("[S190] an unknown video is 404 with the detail that these clients know", async () => {
    const answer = await it.get("/pipeline/status/nope");
    expect(answer.status).toBe(404);
    expect(problemSchema.parse(await answer.json())).toMatchObject({
      detail: "Video not found",
      code: "job_not_found",
    });
  });
});

describe("WebSocket /pipeline/stream/{video_id}", () => {
  type Socket = {
    readonly messages: Record<string, unknown>[];
    readonly closed: () => { code: number; reason: string } | undefined;
    readonly ws: WebSocket;
  };
  const open = (edge: TestEdge, id: string, headers: Record<string, string> = {}): Socket => {
    const ws = new WebSocket(`${edge.url.replace("http", "ws")}/pipeline/stream/${id}`, { headers });
    const messages: Record<string, unknown>[] = [];
    let closed: { code: number; reason: string } | undefined;
    ws.on("message", (data) => messages.push(JSON.parse(String(data)) as Record<string, unknown>));
    ws.on("close", (code, reason) => {
      closed = { code, reason: String(reason) };
    });
    ws.on("error", () => {});
    return { messages, closed: () => closed, ws };
  };

  test("[S191] the last state comes first, then every progress message of that video, then 1000 at its end", async () => {
    const id = await it.submit({ pipeline: "pair" });
    const other = await it.submit({ pipeline: "pair" });
    const socket = open(it, id);
    await eventually(() => socket.messages.length > 0);
    expect(socket.messages[0]).toEqual({
      video_id: id,
      stage: "first",
      progress: 0,
      status: "queued",
      timestamp: expect.any(String),
    });
    const message = { video_id: id, stage: "first", progress: 50, timestamp: "2026-01-01T00:00:00" };
    it.ctx.bus.publish("pipeline:progress", { ...message, video_id: other });
    it.ctx.bus.publish("pipeline:progress", message);
    await eventually(() => socket.messages.length === 2);
    expect(socket.messages[1]).toEqual(message);
    await it.post(`/api/v1/jobs/${id}/cancel`, {});
    await it.relay();
    expect(await eventually(socket.closed)).toEqual({ code: 1000, reason: "cancelled" });
    expect(socket.messages.at(-1)).toMatchObject({ video_id: id, status: "cancelled" });
  });

  test("[S191] a video that has ended: its state and 1000; an unknown one: 4404", async () => {
    const id = await it.submit({ pipeline: "pair" });
    await it.post(`/api/v1/jobs/${id}/cancel`, {});
    const ended = open(it, id);
    expect((await eventually(ended.closed)).code).toBe(1000);
    expect(ended.messages).toMatchObject([{ video_id: id, status: "cancelled" }]);
    const unknown = open(it, "nope");
    expect(await eventually(unknown.closed)).toEqual({ code: 4404, reason: "Video not found" });
    expect(unknown.messages).toEqual([]);
  });

  test("[S191] an id that the client chose is the id in its messages", async () => {
    const id = await it.submit({ pipeline: "pair", external_id: "uuid-of-theirs" });
    const socket = open(it, "uuid-of-theirs");
    await eventually(() => socket.messages.length === 1);
    it.ctx.bus.publish("pipeline:progress", { video_id: id, stage: "first", progress: 10, timestamp: "t" });
    await eventually(() => socket.messages.length === 2);
    expect(socket.messages.map((m) => m.video_id)).toEqual(["uuid-of-theirs", "uuid-of-theirs"]);
    socket.ws.close();
  });

  test("a page of another site cannot open it, and plain HTTP is told what it is", async () => {
    const id = await it.submit({ pipeline: "pair" });
    const ws = new WebSocket(`${it.url.replace("http", "ws")}/pipeline/stream/${id}`, {
      origin: "https://evil.example",
    });
    const status = await new Promise((resolve) => {
      ws.on("unexpected-response", (_request, answer) => resolve(answer.statusCode));
      ws.on("error", () => {});
      ws.on("open", () => resolve("open"));
    });
    expect(status).toBe(403);
    const plain = await it.get(`/pipeline/stream/${id}`);
    expect(problemSchema.parse(await plain.json())).toMatchObject({
      status: 400,
      detail: "This address is a WebSocket.",
    });
  });

  test("stop closes it with 1012, so that the client comes back", async () => {
    const other = await openTestEdge();
    const id = await other.submit({ pipeline: "pair" });
    const socket = open(other, id);
    await eventually(() => socket.messages.length === 1);
    await other.edge.stop();
    expect((await eventually(socket.closed)).code).toBe(1012);
    await other.close();
  });
});
