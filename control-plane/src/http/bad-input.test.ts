// Input that no database can store or no clock can show: refused with the field, and never a fault of ours. Over real sockets.
import { afterAll, beforeAll, expect, test } from "vitest";
import { WebSocket } from "ws";
import { openTestEdge, type TestEdge } from "../testing/http-edge.ts";
import { problemSchema } from "./problem.ts";

let it: TestEdge;
beforeAll(async () => {
  it = await openTestEdge();
});
afterAll(() => it.close());

const refusal = async (answer: Response) => {
  const { status, code, errors } = problemSchema.parse(await answer.json());
  return { status, code, pointer: errors[0]?.pointer, detail: errors[0]?.detail };
};
const deep = (levels: number) => `${"[".repeat(levels)}${"]".repeat(levels)}`;
const pair = (request: string) => `{"pipeline": "pair", "request": ${request}}`;

test.each<[string, string, string, string]>([
  ["a NUL", '{"user_id": "a\\u0000b", "request": {"script": "x"}}', "/user_id", "user_id has a NUL character"],
  [
    "half a character",
    pair('{"list": ["ok", "a\\ud83d"]}'),
    "/request/list/1",
    "request.list.1 has half of a character (a lone surrogate)",
  ],
  ["a NUL in a key", pair('{"x/y": {"a\\u0000": 1}}'), "/request/x~1y", "request.x/y has a key with a NUL character"],
  ["31 levels too many", pair(`{"x": ${deep(61)}}`), "", "more than 32 levels"],
  ["100,000 levels", pair(`{"x": ${deep(100_000)}}`), "", "more than 32 levels"],
])("%s in a body is refused with its field", async (_, body, pointer, detail) => {
  const answer = await refusal(await it.post("/api/v1/jobs", body));
  expect(answer).toMatchObject({ status: 422, code: "invalid_request", detail: expect.stringContaining(detail) });
  if (pointer !== "") expect(answer.pointer).toBe(pointer);
});

test("what is odd and can be stored is taken", async () => {
  const answer = await it.post("/api/v1/jobs", pair(`{"x": ${deep(29)}, "title": "a \\ud83d\\ude00 \\u0001 '%{}"}`));
  expect(answer.status).toBe(201);
});

test("the reason of a cancel too", async () => {
  const id = await it.submit({ pipeline: "pair" });
  const answer = await it.post(`/api/v1/jobs/${id}/cancel`, '{"reason": "\\u0000"}');
  expect(await refusal(answer)).toMatchObject({ status: 422, pointer: "/reason" });
});

test.each([
  "/api/v1/jobs/%00",
  "/api/v1/jobs/a%00b/explain",
  "/api/v1/jobs?user_id=%00",
  "/api/v1/events?topics=job:%00",
  "/api/v1/jobs/x/artifacts/a/%00",
])("a NUL in the address %s is refused", async (path) => {
  expect(await refusal(await it.get(path))).toMatchObject({ status: 422, code: "invalid_request" });
});
test("a NUL in an older address is refused as those clients know it", async () => {
  expect(await refusal(await it.get("/pipeline/status/%00"))).toMatchObject({ status: 400 });
  const socket = new WebSocket(`${it.url.replace("http", "ws")}/pipeline/stream/%00`);
  const status = await new Promise((resolve) => {
    socket.on("unexpected-response", (_request, response) => resolve(response.statusCode));
    socket.on("open", () => resolve("open"));
    socket.on("error", () => {});
  });
  socket.terminate();
  expect(status).toBe(400);
});

test.each([9_007_199_254_740_991, 8_640_000_000_000_000, -8_640_000_000_000_000])(
  "a cursor of the time %s is refused",
  async (at) => {
    const cursor = Buffer.from(JSON.stringify([at, "v_1"])).toString("base64url");
    expect(await refusal(await it.get(`/api/v1/jobs?cursor=${cursor}`))).toMatchObject({
      status: 422,
      pointer: "/query/cursor",
    });
  },
);

test("an external_id that another job has is refused with that job, also when both arrive at once", async () => {
  const send = () => it.post("/api/v1/jobs", { pipeline: "pair", external_id: "mine", request: {} });
  const answers = await Promise.all([send(), send(), send()]);
  expect(answers.map((a) => a.status).sort()).toEqual([201, 422, 422]);
  const refused = answers.find((a) => a.status === 422) as Response;
  const { id } = (await (await it.get("/api/v1/jobs/mine")).json()) as { id: string };
  expect(await refusal(refused)).toMatchObject({
    code: "invalid_request",
    pointer: "/external_id",
    detail: `external_id "mine" is that of job ${id}; leave it out or choose another`,
  });
});
