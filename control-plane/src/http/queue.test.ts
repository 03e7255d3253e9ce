// The queue and estimates over real sockets: what an answer says, that an estimate makes nothing, and that a job carries its
// place, its range of times and its deadline.
import { afterAll, beforeAll, expect, test } from "vitest";
import { openTestEdge, sampleJob, type TestEdge } from "../testing/http-edge.ts";
import { jobSchema } from "./job-schema.ts";
import { estimateSchema, queueSchema } from "./queue.ts";

let it: TestEdge;
beforeAll(async () => {
  it = await openTestEdge();
});
afterAll(() => it.close());

const metric = async (name: string): Promise<number> =>
  Number(
    (await (await it.get("/metrics")).text())
      .split("\n")
      .find((l) => l.startsWith(`${name} `))
      ?.split(" ")[1],
  );

test("an estimate answers place, times, cost and hosts, and leaves nothing behind", async () => {
  const before = (await it.ctx.db.direct.query("select 1 from jobs")).rowCount;
  const answer = await it.post("/api/v1/estimates", { ...sampleJob, complexity: "premium" });
  expect(answer.status).toBe(200);
  expect(estimateSchema.parse(await answer.json())).toMatchObject({
    valid: true,
    pipeline: "narrated-video",
    position: 1,
    queue: { depth: 0, limit: 100, is_full: false },
    start: null,
    basis: "target",
    cost: { estimate: 2.8, low: 1.15, high: 2.8, limit: 3, basis: "target" },
    hosts: 0,
  });
  const wrong = await it.post("/api/v1/estimates", { ...sampleJob, priority: 10 });
  expect(wrong.status).toBe(200);
  expect(estimateSchema.parse(await wrong.json())).toMatchObject({ valid: false, errors: [{ pointer: "/priority" }] });
  expect((await it.post("/api/v1/estimates", '{"a"')).status).toBe(400);
  expect((await it.post("/api/v1/estimates", { pipeline: "nothing" })).status).toBe(422);
  expect((await it.ctx.db.direct.query("select 1 from jobs")).rowCount).toBe(before);
});

test("[S147] the queue says its depth, what is in work, and what was enqueued, processed and failed", async () => {
  const deadline = new Date(Date.now() + 3_600_000).toISOString();
  const id = await it.submit({ user_id: "first", deadline, on_deadline: "cancel" });
  await it.submit({ user_id: "second", priority: 8 });
  const gone = await it.submit({ user_id: "third" });
  await it.post(`/api/v1/jobs/${gone}/cancel`, {});
  const queue = queueSchema.parse(await (await it.get("/api/v1/queue")).json());
  expect(queue).toMatchObject({
    depth: 2,
    processing: 0,
    lanes: [{ pipeline: "narrated-video", complexity: "simple", queued: 2 }],
    last_24_hours: { enqueued: 3, cancelled: 1, completed: 0, failed: 0 },
    limits: { depth: 100 },
    reached: { jobs: false },
  });
  expect(queue.head.map((j) => [j.position, j.user_id, j.place.priority_seconds])).toEqual([
    [1, "second", 800_000],
    [2, "first", 500_000],
  ]);
  for (const { place } of queue.head)
    expect(new Date(place.since).getTime() - (place.priority_seconds + place.premium_seconds) * 1000).toBe(place.rank);
  await it.relay();
  expect(await metric('pipeline_videos_enqueued_total{complexity="simple"}')).toBe(3);
  expect(await metric('pipeline_jobs{state="queued"}')).toBe(2);
  expect(await metric('pipeline_jobs{state="processing"}')).toBe(0);
  expect(await metric('pipeline_videos_processed_total{status="cancelled",complexity="simple"}')).toBe(1);
  expect(await metric('pipeline_videos_processed_total{status="failed",complexity="simple"}')).toBe(0);

  const job = jobSchema.parse(await (await it.get(`/api/v1/jobs/${id}`)).json());
  expect(job).toMatchObject({
    position: 2,
    deadline,
    on_deadline: "cancel",
    not_before: null,
    eta: { basis: "target" },
  });
  expect(Date.parse(job.eta?.finish?.latest ?? "")).toBeGreaterThan(Date.parse(job.eta?.finish?.earliest ?? ""));
  const ended = jobSchema.parse(await (await it.get(`/api/v1/jobs/${gone}`)).json());
  expect([ended.eta, ended.position]).toEqual([null, -1]);
  const explained = (await (await it.get(`/api/v1/jobs/${id}/explain`)).json()) as { stages: { gates: unknown[] }[] };
  expect(explained.stages[0]?.gates).toHaveLength(2);
});
