// Jobs, hosts and files as clients see them, over real sockets with the real operations; a test plays the host.
import { createHash } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openTestEdge, type TestEdge } from "../testing/http-edge.ts";
import { hostSchema } from "./host-json.ts";
import { explanationSchema, jobItemSchema, jobSchema } from "./job-schema.ts";
import { problemSchema } from "./problem.ts";
import { disposition, parseRange } from "./ranges.ts";

let it: TestEdge;
beforeAll(async () => {
  it = await openTestEdge();
});
afterAll(() => it.close());

const view = async (id: string) => jobSchema.parse(await (await it.get(`/api/v1/jobs/${id}`)).json());
const pair = (change: Record<string, unknown> = {}) => it.submit({ pipeline: "pair", ...change });
const put = async (text: string) => {
  const bytes = async function* () {
    yield Buffer.from(text);
  };
  return it.ctx.artifacts.ingest(bytes(), 1_000_000);
};

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

describe("files of a job", () => {
  const text = "0123456789".repeat(10);
  let id: string;
  let base: string;
  beforeAll(async () => {
    id = await pair();
    base = `/api/v1/jobs/${id}/artifacts`;
    const host = await it.engine.host("sender");
    const offer = (await it.engine.offers(host)).find((o) => o.jobId === id);
    if (!offer) throw new Error("nothing was offered");
    await it.engine.accept(host, offer);
    const film = await put(text);
    const page = await put("<script>alert(1)</script>");
    await it.engine.finish(host.hostId, offer, {
      outputs: [
        { name: "video.mp4", ...film, mediaType: "video/mp4" },
        { name: "page.html", ...page, mediaType: "text/html" },
      ],
    });
  });

  test("are listed with digest, size and address", async () => {
    const { items } = (await (await it.get(base)).json()) as { items: unknown[] };
    expect(items).toContainEqual({
      stage: "first",
      name: "video.mp4",
      original_name: "video.mp4",
      sha256: createHash("sha256").update(text).digest("hex"),
      size_bytes: 100,
      media_type: "video/mp4",
      url: `${base}/first/video.mp4`,
    });
  });

  test.each([
    ["bytes=0-9", 206, "bytes 0-9/100", "0123456789"],
    ["bytes=95-", 206, "bytes 95-99/100", "56789"],
    ["bytes=-3", 206, "bytes 97-99/100", "789"],
    ["bytes=98-1000", 206, "bytes 98-99/100", "89"],
    ["bytes=0-1,5-6", 200, null, text],
    ["lines=1-2", 200, null, text],
  ])("Range %s answers %i", async (range, status, contentRange, body) => {
    const answer = await it.get(`${base}/first/video.mp4`, { range });
    expect(answer.status).toBe(status);
    expect(answer.headers.get("content-range")).toBe(contentRange);
    expect(answer.headers.get("content-length")).toBe(String(body.length));
    expect(await answer.text()).toBe(body);
  });

  test("a range outside is 416 with the size, HEAD has the headers and no body", async () => {
    const outside = await it.get(`${base}/first/video.mp4`, { range: "bytes=100-" });
    expect(outside.status).toBe(416);
    expect(outside.headers.get("content-range")).toBe("bytes */100");
    expect(problemSchema.parse(await outside.json()).code).toBe("range_not_satisfiable");
    const head = await fetch(`${it.url}${base}/first/video.mp4`, { method: "HEAD" });
    expect(head.status).toBe(200);
    expect(head.headers.get("content-length")).toBe("100");
    expect(head.headers.get("accept-ranges")).toBe("bytes");
    expect(await head.text()).toBe("");
  });

  test("the ETag is the sha256: not modified, and a range only of the same content", async () => {
    const first = await it.get(`${base}/first/video.mp4`);
    const etag = first.headers.get("etag") ?? "";
    expect(etag).toBe(`"${createHash("sha256").update(text).digest("hex")}"`);
    await first.text();
    expect((await it.get(`${base}/first/video.mp4`, { "if-none-match": etag })).status).toBe(304);
    expect((await it.get(`${base}/first/video.mp4`, { range: "bytes=0-1", "if-range": etag })).status).toBe(206);
    expect((await it.get(`${base}/first/video.mp4`, { range: "bytes=0-1", "if-range": '"other"' })).status).toBe(200);
  });

  test("video plays in place, a page is saved and cannot run", async () => {
    const film = await it.get(`${base}/first/video.mp4`);
    expect(film.headers.get("content-disposition")).toBe('inline; filename="video.mp4"');
    const page = await it.get(`${base}/first/page.html`);
    expect(page.headers.get("content-disposition")).toBe('attachment; filename="page.html"');
    expect(page.headers.get("content-security-policy")).toContain("sandbox");
    await Promise.all([film.text(), page.text()]);
  });

  test("a name leads only to files of that job", async () => {
    for (const path of ["second/video.mp4", "first/other.mp4", "first/..%2f..%2fsecret", "uploads/video.mp4"]) {
      const answer = await it.get(`${base}/${path}`);
      expect(problemSchema.parse(await answer.json())).toMatchObject({ status: 404, code: "artifact_not_found" });
    }
  });

  test("the listed job shows its finished stage", async () => {
    expect((await view(id)).stages[0]).toMatchObject({ state: "succeeded", progress: 1 });
  });
});

test.each([
  ["bytes=0-0", 1, { start: 0, end: 0 }],
  ["bytes=-5", 3, { start: 0, end: 2 }],
  ["bytes=-0", 3, "unsatisfiable"],
  ["bytes=0-", 0, "unsatisfiable"],
  ["bytes=5-2", 10, undefined],
  ["bytes=-", 10, undefined],
  [undefined, 10, undefined],
] as const)("range %s of %i bytes", (header, size, expected) => {
  expect(parseRange(header, size)).toEqual(expected);
});

test("a file name with quotes, line ends and unicode cannot break the header", () => {
  expect(disposition('a"b\r\nX: y\u00e9.mp4', "video/mp4")).toBe(
    "inline; filename=\"a_b__X_ y_.mp4\"; filename*=UTF-8''a%22b%0D%0AX%3A%20y%C3%A9.mp4",
  );
});
