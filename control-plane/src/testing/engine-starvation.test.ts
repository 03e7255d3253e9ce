// What cannot go on must not keep what could: stages behind a full provider, behind a hundred thousand that fit nowhere, and jobs and
// calls beside one whose row somebody else holds too long.
import { isCode } from "@renderplane/proto/kernel/errors.ts";
import { afterEach, beforeEach, expect, test } from "vitest";
import { parsePipeline } from "../domain/pipeline.ts";
import { bindGrpcOperations } from "../grpc/bind.ts";
import { createPlacer } from "../loops/placer.ts";
import { wakeStages } from "../operations/wake-stages.ts";
import { watchDeadlines } from "../operations/watch-deadlines.ts";
import { explaining } from "../store/testing-plans.ts";
import { type Engine, openEngine } from "./engine.ts";

const single = (name: string, stage: { readonly kind: string; readonly providers?: readonly string[] }) =>
  parsePipeline(
    {
      name,
      version: 1,
      title: name,
      estimate: { simple: 1, complex: 1, premium: 1 },
      target: { seconds: 600, cost: 2.5 },
      request: { type: "object" },
      stages: [
        {
          name: "only",
          timeout: "60s",
          retries: 0,
          estimated_cost: 0,
          resources: { cores: 1, memory: "64MiB", scratch: "1MiB" },
          ...stage,
        },
      ],
    },
    name,
  );

let engine: Engine;
beforeEach(async () => {
  engine = await openEngine({
    settings: {
      queueDepth: 1_000,
      concurrency: { jobs: 10_000, jobsPerUser: 10_000, attemptsPerProvider: new Map([["tts.openai", 1]]) },
    },
  });
  const pipelines = engine.ctx.pipelines as Map<string, ReturnType<typeof single>>;
  for (const pipeline of [
    single("spoken", { kind: "noop", providers: ["tts.openai"] }),
    single("rare", { kind: "special" }),
  ])
    pipelines.set(pipeline.name, pipeline);
});
afterEach(() => engine.close());

/** As many more stages like the one of this job, each a place further back. */
const clone = (jobId: string, count: number) =>
  engine.sql(
    `insert into stages (job_id, position, name, kind, state, spec, open_needs, estimated_micros, rank, user_id, pipeline, run_at, shape)
     select s.job_id, n, 'only-' || n, s.kind, s.state, s.spec, 0, 0, s.rank + n, s.user_id, s.pipeline, s.run_at, s.shape
     from stages s, generate_series(1, $2::int) n where s.job_id = $1`,
    [jobId, count],
  );
const offered = async () =>
  (await engine.sql<{ jobId: string }>(`select job_id as "jobId" from attempts order by fence`)).map(
    (row) => row.jobId,
  );
/** Holds the row of a job in a transaction of somebody who stopped in it. */
const whileHeld = (jobId: string, act: () => Promise<void>) =>
  engine.ctx.db.transaction(async (tx) => {
    await tx.query(`select 1 from jobs where id = $1 for no key update`, [jobId]);
    await act();
  });

test("stages whose provider has no room do not keep those behind them from free hosts", async () => {
  await engine.host("a", { cores: 4, providers: ["tts.openai"] });
  const spoken = await engine.submit({ pipeline: "spoken", priority: 9 });
  await clone(spoken, 450);
  const behind = await engine.submit({ priority: 1 });
  const placer = createPlacer(engine.ctx);
  await placer.runOnce();
  expect(await offered()).toEqual([spoken, behind]);
});

test("behind a hundred thousand stages that fit nowhere a turn goes on where the last one stopped; what is due is found by an index", async () => {
  await engine.host("a");
  const rare = await engine.submit({ pipeline: "rare", priority: 9 });
  await clone(rare, 100_000);
  const behind = await engine.submit({ priority: 1 });
  await engine.sql(`analyze stages`);
  const placer = createPlacer(engine.ctx);
  await placer.runOnce();
  await placer.runOnce();
  expect(await offered()).toEqual([behind]);
  const { db, explained } = explaining(engine.ctx.db);
  await wakeStages({ ...engine.ctx, db });
  const read = explained().flatMap(({ scans }) => scans.filter((scan) => scan.relation.startsWith("stages")));
  expect(read.length).toBeGreaterThan(0);
  expect(read.filter((scan) => scan.node === "Seq Scan" || scan.rows > 100)).toEqual([]);
}, 60_000);

test("one end that waits too long for its job's row does not fail those that came with it", async () => {
  const host = await engine.host("a");
  for (const user_id of ["a", "b", "c"]) await engine.submit({ user_id });
  const offers = await engine.offers(host);
  const operations = bindGrpcOperations(engine.ctx);
  const end = { hostId: host.hostId, outcome: "succeeded", result: {}, outputs: [], failure: null, usage: [] } as const;
  for (const offer of offers) await engine.accept(host, offer);
  const [held] = offers;
  await whileHeld(held?.jobId ?? "", async () => {
    const answers = await Promise.allSettled(
      offers.map(({ attemptId, fence }) => operations.finishAttempt({ ...end, attemptId, fence })),
    );
    expect(answers.map((answer) => answer.status)).toEqual(["rejected", "fulfilled", "fulfilled"]);
    expect(answers[0]?.status === "rejected" && isCode(answers[0].reason, "unavailable")).toBe(true);
  });
  if (held)
    expect(await operations.finishAttempt({ ...end, attemptId: held.attemptId, fence: held.fence })).toEqual({
      applied: true,
    });
}, 30_000);

test("a missed deadline whose job somebody holds does not keep the others from being cancelled", async () => {
  const deadline = new Date(Date.now() + 3_600_000).toISOString();
  const jobs: string[] = [];
  for (const user_id of ["a", "b"]) jobs.push(await engine.submit({ user_id, deadline, on_deadline: "cancel" }));
  // Marked before: the first is the first at every look.
  for (const [n, id] of jobs.entries())
    await engine.sql(
      `update jobs set deadline_at = clock_timestamp(), deadline_missed_at = clock_timestamp() + $2 * interval '1 second' where id = $1`,
      [id, n],
    );
  const [first = "", second = ""] = jobs;
  await whileHeld(first, async () => {
    await expect(watchDeadlines(engine.ctx)).rejects.toMatchObject({ code: "unavailable" });
    expect((await engine.detail(second)).job.state).toBe("cancelled");
  });
  await watchDeadlines(engine.ctx);
  expect((await engine.detail(first)).job.state).toBe("cancelled");
}, 30_000);
