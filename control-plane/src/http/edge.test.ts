// The edge as a program sees it from outside: lifetime, index, health, document, guards and the form of errors.

import { request } from "node:http";
import { createServer } from "node:net";
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openTestEdge, sampleJob, type TestEdge } from "../testing/http-edge.ts";
import { parseListen } from "./edge.ts";
import { problemSchema } from "./problem.ts";

let it: TestEdge;
beforeAll(async () => {
  it = await openTestEdge();
});
afterAll(() => it.close());

/** fetch() forbids some of these headers, so they are written by hand. */
const raw = (
  path: string,
  options: { method?: string; headers?: Record<string, string>; body?: string } = {},
): Promise<{ status: number; headers: Record<string, unknown>; body: string }> =>
  new Promise((resolve, reject) => {
    const call = request(`${it.url}${path}`, { method: options.method ?? "GET", headers: options.headers ?? {} });
    call.on("error", reject);
    call.on("response", (answer) => {
      let body = "";
      answer.setEncoding("utf8").on("data", (chunk) => {
        body += chunk;
      });
      answer.on("end", () => resolve({ status: answer.statusCode ?? 0, headers: answer.headers, body }));
    });
    call.end(options.body);
  });

const problemOf = async (answer: Response) => {
  expect(answer.headers.get("content-type")).toBe("application/problem+json");
  return problemSchema.parse(await answer.json());
};

describe("lifetime", () => {
  test("[S212] the document has title and version, start opens the listener and stop closes it with its streams", async () => {
    const other = await openTestEdge();
    const document = (await (await other.get("/api/v1/openapi.json")).json()) as { info: unknown; openapi: string };
    expect(document.openapi).toBe("3.1.0");
    expect(document.info).toMatchObject({ title: "Renderplane API", version: "1.2.3" });
    await other.edge.start();
    const stream = await other.get("/api/v1/events");
    expect(stream.status).toBe(200);
    const whole = stream.text();
    const [first, second] = [other.edge.stop(), other.edge.stop()];
    await Promise.all([first, second]);
    expect(await whole).toContain("retry: 2000");
    await expect(other.get("/healthz")).rejects.toThrow();
    await other.close();
  });

  test("a port in use is a clear start-up error that names the setting", async () => {
    const taken = createServer();
    await new Promise<void>((resolve) => taken.listen(0, "127.0.0.1", resolve));
    const address = taken.address() as { port: number };
    const opening = openTestEdge({ options: { listen: `127.0.0.1:${address.port}` } });
    await expect(opening).rejects.toThrow(
      `RENDERPLANE_LISTEN: 127.0.0.1:${address.port} is in use by another program; stop it, or choose another address with RENDERPLANE_LISTEN (or --port of quickstart).`,
    );
    taken.close();
  });

  test.each([
    ["127.0.0.1:8000", { host: "127.0.0.1", port: 8000 }],
    ["[::1]:0", { host: "::1", port: 0 }],
    [":80", { host: "0.0.0.0", port: 80 }],
  ])("listen %s", (text, parsed) => {
    expect(parseListen(text)).toEqual(parsed);
  });
  test.each(["8000", "host", "host:99999", "a:b:1"])("listen %s is refused", (text) => {
    expect(() => parseListen(text)).toThrow("RENDERPLANE_LISTEN must be host:port");
  });
});

describe("what is about the control plane itself", () => {
  test("index, health, readiness and pipelines answer", async () => {
    expect(await (await it.get("/")).json()).toMatchObject({ name: "renderplane", version: "1.2.3" });
    expect(await (await it.get("/healthz")).json()).toEqual({ status: "ok", version: "1.2.3" });
    expect(await (await it.get("/readyz")).json()).toEqual({ status: "ready", checks: { database: "ok" } });
    const { items } = (await (await it.get("/api/v1/pipelines")).json()) as {
      items: { name: string; stages: unknown[] }[];
    };
    const narrated = items.find((p) => p.name === "narrated-video");
    expect(narrated?.stages[0]).toEqual({
      name: "script_generation",
      kind: "script",
      needs: [],
      timeout_seconds: 60,
      retries: 2,
      estimated_cost: 0.4,
    });
  });

  test("not ready is 503 with the parts that are not", async () => {
    const other = await openTestEdge({
      options: { isReady: async () => ({ ok: false, checks: { database: "no answer for 12 s", bus: "ok" } }) },
    });
    const answer = await other.get("/readyz");
    expect(answer.status).toBe(503);
    expect(answer.headers.get("retry-after")).toBe("1");
    expect(await problemOf(answer)).toMatchObject({
      code: "unavailable",
      detail: "Not ready: database: no answer for 12 s.",
      errors: [{ pointer: "/checks/database", detail: "no answer for 12 s" }],
    });
    await other.close();
  });

  test("the document describes every route of the API and only those", async () => {
    const document = (await (await it.get("/api/v1/openapi.json")).json()) as {
      paths: Record<string, Record<string, unknown>>;
    };
    const described = Object.entries(document.paths).flatMap(([path, methods]) =>
      Object.keys(methods).map((m) => `${m} ${path}`),
    );
    expect(described.sort()).toEqual(
      [
        "get /",
        "delete /api/v1/hosts/{id}",
        "get /api/v1/events",
        "get /api/v1/hosts",
        "get /api/v1/hosts/{id}",
        "get /api/v1/jobs",
        "get /api/v1/jobs/{id}",
        "get /api/v1/jobs/{id}/artifacts",
        "get /api/v1/jobs/{id}/artifacts/{stage}/{name}",
        "get /api/v1/jobs/{id}/explain",
        "get /api/v1/pipelines",
        "get /api/v1/queue",
        "get /healthz",
        "get /metrics",
        "get /pipeline/status/{video_id}",
        "get /readyz",
        "post /api/v1/enrollments",
        "post /api/v1/estimates",
        ...["cordon", "drain", "maintenance", "pool", "quarantine", "release", "revoke", "uncordon"].map(
          (act) => `post /api/v1/hosts/{id}/${act}`,
        ),
        "post /api/v1/jobs",
        "post /api/v1/jobs/{id}/cancel",
        "post /api/v1/pools/{pool}/open-valve",
        "post /pipeline/queue",
      ].sort(),
    );
    expect(document.paths["/api/v1/jobs"]?.post).toMatchObject({
      requestBody: { content: { "application/json": {}, "multipart/form-data": {} } },
    });
  });
});

describe("errors", () => {
  test("an unknown address, a wrong method and a fault have the same form", async () => {
    const missing = await it.get("/nothing/here");
    expect(missing.status).toBe(404);
    expect(await problemOf(missing)).toMatchObject({
      type: "urn:renderplane:problem:not_found",
      status: 404,
      instance: "/nothing/here",
      code: "not_found",
      retryable: false,
    });
    const wrong = await fetch(`${it.url}/api/v1/jobs/v_1/cancel`, { method: "DELETE" });
    expect(wrong.status).toBe(405);
    expect(wrong.headers.get("allow")).toBe("POST");
    expect((await problemOf(wrong)).code).toBe("method_not_allowed");
    expect((await fetch(`${it.url}/healthz`, { method: "POST" })).headers.get("allow")).toBe("GET, HEAD");
  });

  test("a bug shows no details, and what may pass says when to come back", async () => {
    const other = await openTestEdge({
      operations: {
        listHosts: async () => {
          throw new Error("secret table name");
        },
        listJobs: async () => {
          throw new RenderplaneError("unavailable", "The database does not answer.", { retryAfterMs: 2_500 });
        },
      },
    });
    const bug = await other.get("/api/v1/hosts");
    expect(bug.status).toBe(500);
    const text = await bug.text();
    expect(text).not.toContain("secret");
    expect(JSON.parse(text)).toMatchObject({ code: "internal", retryable: true });
    const away = await other.get("/api/v1/jobs");
    expect(away.status).toBe(503);
    expect(away.headers.get("retry-after")).toBe("3");
    await other.close();
  });

  test("ids are taken from the caller and given back", async () => {
    const traceId = "4bf92f3577b34da6a3ce929d0e0e4736";
    const answer = await it.get("/nothing", {
      traceparent: `00-${traceId}-00f067aa0ba902b7-01`,
      "x-request-id": "my-request.1",
    });
    expect(answer.headers.get("x-request-id")).toBe("my-request.1");
    expect((await problemOf(answer)).trace_id).toBe(traceId);
    const odd = await it.get("/nothing", { "x-request-id": "no spaces please" });
    const { trace_id } = await problemOf(odd);
    expect(trace_id).toMatch(/^[0-9a-f]{32}$/);
    expect(odd.headers.get("x-request-id")).toBe(trace_id);
  });
});

describe("guards", () => {
  test("a Host header that rebinding would bring is refused on loopback", async () => {
    const answer = await raw("/api/v1/jobs", { headers: { host: "evil.example" } });
    expect(answer.status).toBe(403);
    expect(JSON.parse(answer.body)).toMatchObject({
      code: "forbidden",
      detail: "The Host header names evil.example, but this listener serves this machine only.",
    });
    expect((await raw("/healthz", { headers: { host: `localhost:1234` } })).status).toBe(200);
  });

  test.each([
    ["a page of another site", { origin: "https://evil.example" }, 403],
    ["a sandboxed page", { origin: "null" }, 403],
    ["another site by fetch metadata", { "sec-fetch-site": "cross-site" }, 403],
    ["another port of this host", { origin: "http://127.0.0.1:1", "sec-fetch-site": "same-site" }, 403],
    ["a program", {}, 201],
  ])("a change asked for by %s answers %s", async (_who, headers: Record<string, string>, status) => {
    const body = JSON.stringify(sampleJob);
    const answer = await raw("/api/v1/jobs", {
      method: "POST",
      headers: { "content-type": "application/json", ...headers },
      body,
    });
    expect(answer.status).toBe(status);
  });

  test("the console's own origin may change things", async () => {
    const body = JSON.stringify(sampleJob);
    const headers = { "content-type": "application/json", origin: it.url, "sec-fetch-site": "same-origin" };
    expect((await raw("/api/v1/jobs", { method: "POST", headers, body })).status).toBe(201);
  });

  test("answers carry the security headers and no CORS", async () => {
    const { headers } = await it.get("/healthz", { origin: "https://evil.example" });
    expect(headers.get("x-content-type-options")).toBe("nosniff");
    expect(headers.get("content-security-policy")).toContain("default-src 'none'");
    expect(headers.get("access-control-allow-origin")).toBeNull();
  });
});

describe("metrics", () => {
  test("levels from the database, counters from events, requests by template", async () => {
    const other = await openTestEdge();
    const id = await other.submit();
    await other.submit();
    await other.get(`/api/v1/jobs/${id}`);
    await other.post(`/api/v1/jobs/${id}/cancel`, {});
    await other.relay();
    const answer = await other.get("/metrics");
    expect(answer.headers.get("content-type")).toBe("text/plain; version=0.0.4; charset=utf-8");
    const lines = (await answer.text()).split("\n");
    expect(lines).toContain('pipeline_jobs{state="queued"} 1');
    expect(lines).toContain('pipeline_jobs{state="cancelled"} 1');
    expect(lines).toContain('pipeline_stages{state="ready"} 1');
    expect(lines).toContain("pipeline_store_up 1");
    expect(
      lines.filter((l) => l.startsWith('pipeline_videos_processed_total{status="cancelled"') && l.endsWith(" 1")),
    ).toHaveLength(1);
    expect(lines).toContain('pipeline_api_requests_total{endpoint="/api/v1/jobs",method="POST",status="201"} 2');
    expect(lines).toContain('pipeline_api_requests_total{endpoint="/api/v1/jobs/:id",method="GET",status="200"} 1');
    expect(lines).toContain('pipeline_stage_total{stage="video_rendering",status="success"} 0');
    expect(lines.some((l) => l.startsWith('pipeline_system_info{version="1.2.3"'))).toBe(true);
    expect(lines.some((l) => l.startsWith("process_resident_memory_bytes "))).toBe(true);
    expect(lines.join("\n")).not.toContain(id);
    await other.close();
  });

  test("a scrape answers without the database, and without old levels", async () => {
    let isAway = false;
    const other = await openTestEdge({
      operations: {
        countJobs: async () => {
          if (isAway) throw new RenderplaneError("unavailable", "away");
          return [{ state: "queued", count: 3 }];
        },
      },
    });
    expect(await (await other.get("/metrics")).text()).toContain('pipeline_jobs{state="queued"} 3');
    isAway = true;
    const answer = await other.get("/metrics");
    expect(answer.status).toBe(200);
    const text = await answer.text();
    expect(text).toContain("pipeline_store_up 0");
    expect(text).not.toContain("pipeline_jobs{");
    await other.close();
  });
});
