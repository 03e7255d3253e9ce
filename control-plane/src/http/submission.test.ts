// Submissions as JSON over real sockets: bodies that cannot be read, fields that are wrong, repeats and a full queue. What a
// pipeline refuses is tested with the operations; here it only shows that the answer names the field and nothing is submitted.
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { openTestEdge, sampleJob, type TestEdge } from "../testing/http-edge.ts";
import { parseJson } from "./body.ts";
import { submittedSchema } from "./job-schema.ts";
import { type Problem, problemSchema } from "./problem.ts";

let it: TestEdge;
beforeAll(async () => {
  it = await openTestEdge();
});
afterAll(() => it.close());

let before: number;
const jobCount = async () => (await it.ctx.db.direct.query("select 1 from jobs")).rowCount;
beforeEach(async () => {
  before = await jobCount();
});

const problemOf = async (answer: Response): Promise<Problem> => {
  expect(answer.headers.get("content-type")).toBe("application/problem+json");
  return problemSchema.parse(await answer.json());
};

test("a job is submitted, with its place and estimate", async () => {
  const answer = await it.post("/api/v1/jobs", sampleJob);
  expect(answer.status).toBe(201);
  const body = submittedSchema.parse(await answer.json());
  expect(answer.headers.get("location")).toBe(`/api/v1/jobs/${body.id}`);
  expect(body).toMatchObject({ state: "queued", position: 1, estimated_cost: 2, estimated_seconds: 600 });
});

test.each([
  ['{"a": 1,}', 'unexpected "}" at line 1, column 9 (position 8)'],
  ['{\n  "a": tru\n}', 'unexpected "t" at line 2, column 8 (position 9)'],
  ['{"a"', "unexpected the end of the body at line 1, column 5 (position 4)"],
  ["[1 2]", 'unexpected "2" at line 1, column 4 (position 3)'],
  ['{"a": "x\ny"}', 'unexpected "\\"" at line 1, column 7 (position 6)'],
  ['{"a":}', 'unexpected "}" at line 1, column 6 (position 5)'],
  ["hello", 'unexpected "h" at line 1, column 1 (position 0)'],
  ['{"a": 01}', 'unexpected "0" at line 1, column 7 (position 6)'],
  ["{} {}", 'unexpected "{" at line 1, column 4 (position 3)'],
])("broken JSON %j is malformed_body with its place", async (body, place) => {
  const answer = await it.post("/api/v1/jobs", body);
  expect(answer.status).toBe(400);
  expect(await problemOf(answer)).toMatchObject({
    code: "malformed_body",
    detail: `The body is not JSON: ${place}.`,
  });
});

test("valid JSON of every kind passes the reader", () => {
  for (const text of ['{"a":[{},[],"\\u00e9\\n",-1.5e+3,true,false,null]}', '"é\u0080"', "  0  "])
    expect(parseJson(Buffer.from(text))).toEqual(JSON.parse(text));
});

test("no body, not UTF-8, another type and a huge body have their own answers", async () => {
  expect((await problemOf(await it.post("/api/v1/jobs", ""))).code).toBe("invalid_request");
  const latin = await fetch(`${it.url}/api/v1/jobs`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: new Uint8Array([0x22, 0xe9, 0x22]),
  });
  expect(await problemOf(latin)).toMatchObject({ status: 400, detail: "The body is not UTF-8 text." });
  const yaml = await it.post("/api/v1/jobs", "a: 1", { "content-type": "text/yaml" });
  expect(await problemOf(yaml)).toMatchObject({
    status: 415,
    code: "unsupported_media_type",
    detail: "The body must be application/json, got text/yaml.",
  });
  const huge = await it.post("/api/v1/jobs", `"${"x".repeat(1024 * 1024)}"`);
  expect(await problemOf(huge)).toMatchObject({ status: 413, code: "body_too_large" });
  expect(await jobCount()).toBe(before);
});

test("an unknown field, a wrong type, an empty and a 200 KB script name their fields", async () => {
  const refused = async (change: Record<string, unknown>) => {
    const answer = await it.post("/api/v1/jobs", { ...sampleJob, ...change });
    expect(answer.status).toBe(422);
    return (await problemOf(answer)).errors;
  };
  expect(await refused({ colour: 1 })).toContainEqual({
    pointer: "/colour",
    detail: "colour is not a field here; remove it or check its spelling",
  });
  expect((await refused({ priority: "high" }))[0]?.pointer).toBe("/priority");
  expect((await refused({ request: { script: "" } }))[0]?.pointer).toBe("/request/script");
  expect((await refused({ request: { script: "x".repeat(200_000) } }))[0]?.pointer).toBe("/request/script");
  expect((await refused({ request: { script: "Hi.", media: ["a.mp4"] } }))[0]?.detail).toContain("was not uploaded");
});

test("a repeated Idempotency-Key answers the first job, another payload under it is refused", async () => {
  const key = { "idempotency-key": '"retry-1"' };
  const first = await it.post("/api/v1/jobs", sampleJob, key);
  const again = await it.post("/api/v1/jobs", sampleJob, { "idempotency-key": "retry-1" });
  expect(again.status).toBe(201);
  expect(again.headers.get("idempotency-replayed")).toBe("true");
  expect(first.headers.get("idempotency-replayed")).toBeNull();
  expect(await again.json()).toEqual(await first.json());
  const other = await it.post("/api/v1/jobs", { ...sampleJob, priority: 9 }, key);
  expect(await problemOf(other)).toMatchObject({ status: 422, code: "idempotency_conflict" });
  const bad = await it.post("/api/v1/jobs", sampleJob, { "idempotency-key": "two words" });
  expect((await problemOf(bad)).detail).toContain("Idempotency-Key must be");
  expect(await jobCount()).toBe(before + 1);
});

test("a full queue is 429 and says when to come back", async () => {
  const other = await openTestEdge({ settings: { queueDepth: 1 } });
  await other.submit();
  const answer = await other.post("/api/v1/jobs", sampleJob);
  expect(answer.headers.get("retry-after")).toBe("30");
  expect(await problemOf(answer)).toMatchObject({ status: 429, code: "queue_full", retryable: true });
  await other.close();
});
