// Jobs and hosts as clients see them, over real sockets with the real operations; a test plays the host.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openTestEdge, type TestEdge } from "../testing/http-edge.ts";
import { hostSchema } from "./host-json.ts";
import { explanationSchema, jobItemSchema, jobSchema } from "./job-schema.ts";
import { problemSchema } from "./problem.ts";

let it: TestEdge;
beforeAll(async () => {
  it = await openTestEdge();
});
afterAll(() => it.close());

const pair = (change: Record<string, unknown> = {}) => it.submit({ pipeline: "pair", ...change });

describe("one job from queue to end", () => {
  test("the answer follows the job and keeps to its schema", async () => {
    const other = await openTestEdge();
    const seen = async (id: string) => jobSchema.parse(await (await other.get(`/api/v1/jobs/${id}`)).json());
    const id = await other.submit({ pipeline: "pair", external_id: "0b1e6f0a-1", complexity: "complex", priority: 7 });
    expect(await seen(id)).toMatchObject({
      id,
      external_id: "0b1e6f0a-1",
      pipeline: "pair",
      priority: 7,
      complexity: "complex",
      state: "queued",
      status_text: "Waiting (next)",
      position: 1,
      progress: 0,
      started_at: null,
      elapsed_seconds: null,
      estimated_cost: 1,
      actual_cost: 0,
      links: { self: `/api/v1/jobs/${id}` },
    });
    expect((await seen("0b1e6f0a-1")).id).toBe(id);

    const host = await other.engine.host("render1");
    const [offer] = await other.engine.offers(host);
    if (!offer) throw new Error("nothing was offered");
    await other.engine.accept(host, offer);
    await other.ctx.db.direct.query(
      `update attempts set progress = 0.425, step = 'encode', eta_ms = 95000 where id = $1`,
      [offer.attemptId],
    );
    const running = await seen(id);
    expect(running).toMatchObject({
      state: "processing",
      status_text: "First 42 % (about 2 min left)",
      progress: 0.2125,
      eta_seconds: 95,
    });
    expect(running.held_cost).toBeGreaterThan(0);
    expect(running.stages[0]).toMatchObject({
      name: "first",
      kind: "noop",
      state: "running",
      progress: 0.425,
      step: "encode",
      eta_seconds: 95,
      retries: 1,
      attempts: [
        { id: offer.attemptId, number: 1, host: "render1", host_id: host.hostId, state: "running", outcome: null },
      ],
    });

    await other.engine.finish(host.hostId, offer, {
      outcome: "failed",
      failure: {
        failureClass: "transient",
        severity: "medium",
        message: "try again",
        evidence: "line 1\nline 2",
        exit: "1",
      },
    });
    const waiting = await seen(id);
    expect(waiting.stages[0]).toMatchObject({ state: "waiting", tries: 1 });
    expect(waiting.stages[0]?.attempts[0]).toMatchObject({
      outcome: "failed",
      failure: { class: "transient", message: "try again", evidence: "line 1\nline 2", exit: "1", stage: "first" },
    });
    expect(waiting.stages[0]?.attempts[0]?.verdict).not.toBeNull();
    expect(waiting.status_text).toBe("First: trying again shortly");

    expect((await other.post(`/api/v1/jobs/${id}/cancel`, {})).status).toBe(202);
    const cancelled = await seen(id);
    expect(cancelled).toMatchObject({
      state: "cancelled",
      status_text: "Cancelled",
      position: -1,
      eta_seconds: null,
      held_cost: 0,
    });
    expect(cancelled.ended_at).not.toBeNull();
    await other.close();
  });
});

describe("lists", () => {
  test("pages by key neither repeat nor miss a job while new ones arrive", async () => {
    const other = await openTestEdge();
    const ids: string[] = [];
    for (let i = 0; i < 7; i++) ids.push(await other.submit({ pipeline: "pair", user_id: i % 2 ? "odd" : "even" }));
    const seen: string[] = [];
    let path: string | null = "/api/v1/jobs?limit=3&nothing=ignored";
    while (path !== null) {
      const answer: Response = await other.get(path);
      const page = (await answer.json()) as { items: unknown[]; next_cursor: string | null };
      seen.push(...page.items.map((item) => jobItemSchema.parse(item).id));
      await other.submit({ pipeline: "pair" });
      const link = answer.headers.get("link");
      expect(link === null).toBe(page.next_cursor === null);
      path = link === null ? null : (/<([^>]+)>; rel="next"/.exec(link)?.[1] ?? null);
    }
    expect(seen).toEqual([...ids].reverse());
    const odd = (await (await other.get("/api/v1/jobs?user_id=odd&state=queued")).json()) as {
      items: { user_id: string }[];
    };
    expect(odd.items.map((item) => item.user_id)).toEqual(["odd", "odd", "odd"]);
    await other.close();
  });

  test("a running job of a list has its progress", async () => {
    const other = await openTestEdge();
    const id = await other.submit({ pipeline: "pair" });
    const host = await other.engine.host("render1");
    for (const offer of await other.engine.offers(host)) {
      await other.engine.accept(host, offer);
      await other.ctx.db.direct.query(`update attempts set progress = 0.5 where id = $1`, [offer.attemptId]);
    }
    const { items } = (await (await other.get("/api/v1/jobs?state=processing")).json()) as { items: unknown[] };
    expect(jobItemSchema.parse(items[0])).toMatchObject({ id, progress: 0.25, status_text: "First 50 %" });
    await other.close();
  });

  test.each([
    ["limit=201", "/query/limit"],
    ["limit=x", "/query/limit"],
    ["state=done", "/query/state"],
    ["cursor=nonsense", "/query/cursor"],
  ])("%s is refused by name", async (query, pointer) => {
    const answer = await it.get(`/api/v1/jobs?${query}`);
    expect(answer.status).toBe(422);
    expect(problemSchema.parse(await answer.json())).toMatchObject({ code: "invalid_request", errors: [{ pointer }] });
  });
});

describe("cancel and explain", () => {
  test("a reason is kept, a second cancel of an ended job is refused, an unknown job is 404", async () => {
    const id = await pair();
    expect((await it.post(`/api/v1/jobs/${id}/cancel`, { reason: "wrong script" })).status).toBe(202);
    const { rows } = await it.ctx.db.direct.query<{ body: unknown }>(
      `select body from events where job_id = $1 and type = 'job.cancel_requested'`,
      [id],
    );
    expect(rows[0]?.body).toMatchObject({ reason: "wrong script" });
    const again = await fetch(`${it.url}/api/v1/jobs/${id}/cancel`, { method: "POST" });
    expect(problemSchema.parse(await again.json())).toMatchObject({ status: 409, code: "job_is_final" });
    for (const path of ["", "/explain", "/artifacts", "/artifacts/first/a.txt"]) {
      const missing = await it.get(`/api/v1/jobs/v_none${path}`);
      expect(problemSchema.parse(await missing.json())).toMatchObject({ status: 404, code: "job_not_found" });
    }
    const odd = await it.post(`/api/v1/jobs/${id}/cancel`, { why: "x" });
    expect(problemSchema.parse(await odd.json()).errors[0]?.pointer).toBe("/why");
  });

  test("explain gives a reason for every host", async () => {
    const other = await openTestEdge();
    await other.engine.host("tray", { stageKinds: ["script"] });
    const id = await other.submit({ pipeline: "pair" });
    const explained = explanationSchema.parse(await (await other.get(`/api/v1/jobs/${id}/explain`)).json());
    expect(explained).toMatchObject({ job_id: id, state: "queued" });
    expect(explained.stages[0]?.hosts).toMatchObject([{ host: "tray", verdict: "refused" }]);
    expect(explained.stages[0]?.hosts[0]?.reason).not.toBe("");
    await other.close();
  });
});

test("hosts show what they have, what is free and what they hold", async () => {
  const other = await openTestEdge();
  const id = await other.submit({ pipeline: "pair" });
  const host = await other.engine.host("render1");
  const [offer] = await other.engine.offers(host);
  const { items } = (await (await other.get("/api/v1/hosts")).json()) as { items: unknown[] };
  expect(hostSchema.parse(items[0])).toMatchObject({
    name: "render1",
    intent: "open",
    presence: "online",
    capacity: { cores: 4 },
    free: { cores: 3 },
    attempts: [{ attempt_id: offer?.attemptId, job_id: id, stage: "first" }],
    ffmpeg_version: "5.1",
  });
  await other.close();
});

test("a join token comes with its end and the line to run", async () => {
  const answer = await it.post("/api/v1/enrollments", { ttl_seconds: 60, max_uses: 2 });
  expect(answer.status).toBe(201);
  const body = (await answer.json()) as { token: string; expires_at: string; command: string };
  expect(body.token).toMatch(/^rpj1\./);
  expect(body.command).toContain(`RENDERPLANE_JOIN_TOKEN=${body.token}`);
  const left = new Date(body.expires_at).getTime() - Date.now();
  expect(left).toBeGreaterThan(50_000);
  expect(left).toBeLessThan(61_000);
  const none = await fetch(`${it.url}/api/v1/enrollments`, { method: "POST" });
  expect(none.status).toBe(201);
  const long = await it.post("/api/v1/enrollments", { ttl_seconds: 1e9 });
  expect(problemSchema.parse(await long.json()).errors[0]?.pointer).toBe("/ttl_seconds");
});
