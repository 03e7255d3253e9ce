// Forgetting over a real database and a real folder: what is past its time goes, what is not stays, the sums stay for ever, and
// nobody waits for it.
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { createRetention } from "../loops/retention.ts";
import { type Engine, openEngine } from "../testing/engine.ts";
import { brokenInvariants } from "../testing/invariants.ts";
import type { Context } from "./context.ts";
import { finishAttempt } from "./finish-attempt.ts";
import { defaultRetention, newPruneMemory, pruneHistory } from "./prune-history.ts";
import { relayEvents } from "./relay-events.ts";

let engine: Engine;
beforeAll(async () => {
  engine = await openEngine({ settings: { queueDepth: 100_000 } });
});
afterAll(() => engine.close());
beforeEach(async () => {
  await engine.sql(
    `truncate jobs, hosts, artifacts, shares, events, history_days, join_tokens, host_sessions, certificates, idempotency cascade`,
  );
  for await (const sha256 of engine.ctx.artifacts.idle(0)) await engine.ctx.artifacts.remove(sha256);
});
afterEach(async () => expect(await brokenInvariants(engine.sql)).toEqual([]));

const dayMs = 24 * 60 * 60_000;
const count = async (table: string, where = "true") =>
  (await engine.sql<{ n: number }>(`select count(*)::int as n from ${table} where ${where}`))[0]?.n;
const relay = async () => {
  while ((await relayEvents(engine.ctx)).length > 0);
};
async function* bytes(text: string) {
  yield Buffer.from(text);
}

/** A job that went through both stages, its first with an output of these bytes; `agoDays`: when it ended. */
const done = async (h: { hostId: string; epoch: bigint }, agoDays: number, text = "bytes") => {
  const id = await engine.submit({ user_id: `u${Math.random()}` }, `key-${Math.random()}`);
  const file = await engine.ctx.artifacts.ingest(bytes(text), 100);
  const output = { ...file, name: "out.bin", mediaType: "application/octet-stream" };
  const work = [];
  for (;;) {
    const offer = (await engine.offers(h)).find((o) => o.jobId === id);
    if (!offer) break;
    await engine.accept(h, offer);
    await engine.finish(h.hostId, offer, { outputs: offer.stage === "first" ? [output] : [] });
    work.push(offer);
  }
  await relay();
  await engine.sql(
    `update jobs set created_at = created_at - $2 * interval '1 day', started_at = started_at - $2 * interval '1 day',
       ended_at = ended_at - $2 * interval '1 day' where id = $1`,
    [id, agoDays],
  );
  return { id, sha256: file.sha256, work };
};
const tablesOfJobs = ["jobs", "stages", "attempts", "ledger", "files", "events", "idempotency"];
const ofJob = async (id: string) =>
  Promise.all(tablesOfJobs.map((table) => count(table, `${table === "jobs" ? "id" : "job_id"} = '${id}'`)));
const days = () =>
  engine.sql(
    `select pipeline, complexity, sum(jobs)::int as jobs, sum(completed)::int as completed, round(sum(seconds)::numeric, 3)::float8 as seconds,
            sum(micros)::int as micros from job_days group by 1, 2 order by 1, 2`,
  );

test("an ended job goes with everything that is its own, and its sums stay, counted once", async () => {
  const h = await engine.host("ha");
  const [old, young] = [await done(h, 91), await done(h, 1)];
  const waiting = await engine.submit();
  await engine.sql(`update jobs set created_at = created_at - interval '1 year' where id = $1`, [waiting]);
  const before = await days();
  expect((await ofJob(old.id)).every((n) => (n ?? 0) > 0)).toBe(true);
  expect(await pruneHistory(engine.ctx)).toMatchObject({ jobs: 1, isMore: false });
  expect(await ofJob(old.id)).toEqual(tablesOfJobs.map(() => 0));
  expect((await ofJob(young.id)).every((n) => (n ?? 0) > 0)).toBe(true);
  expect(await count("jobs")).toBe(2);
  expect(await days()).toEqual(before);
  expect(await count("history_days")).toBe(1);
  expect((await pruneHistory(engine.ctx)).jobs).toBe(0);
  expect(await days()).toEqual(before);
});

test("a turn that dies before its commit counts nothing and removes nothing; two turns at once count each job once", async () => {
  const h = await engine.host("ha");
  for (let i = 0; i < 6; i++) await done(h, 100);
  const before = await days();
  const dying: Context = {
    ...engine.ctx,
    db: {
      ...engine.ctx.db,
      transaction: (act) =>
        engine.ctx.db.transaction(async (tx) => {
          await act(tx);
          throw new Error("killed");
        }),
    },
  };
  await expect(pruneHistory(dying)).rejects.toThrow("killed");
  expect([await count("jobs"), await count("history_days")]).toEqual([6, 0]);
  const turns = await Promise.all([1, 2, 3].map(() => pruneHistory(engine.ctx)));
  expect(turns.reduce((sum, turn) => sum + turn.jobs, 0)).toBe(6);
  expect(await days()).toEqual(before);
  expect(before).toMatchObject([{ jobs: 6, completed: 6 }]);
});

test("a job whose events were not published stays until they are", async () => {
  const h = await engine.host("ha");
  const { id } = await done(h, 100);
  await engine.sql(`update events set published_seq = null where job_id = $1 and is_terminal`, [id]);
  expect((await pruneHistory(engine.ctx)).jobs).toBe(0);
  await relay();
  expect((await pruneHistory(engine.ctx)).jobs).toBe(1);
});

test("while a turn holds what it removes, jobs are taken in, placed and finished", async () => {
  const h = await engine.host("ha");
  const old = await done(h, 100);
  await engine.ctx.db.transaction(async (tx) => {
    const slow: Context = { ...engine.ctx, db: { ...engine.ctx.db, transaction: (act) => act(tx) } };
    expect((await pruneHistory(slow)).jobs).toBe(1);
    // Its rows are gone in this transaction only; everybody else works on, and a repeated end of the old job waits for nobody's.
    const { id } = await done(h, 0);
    expect((await engine.detail(id)).job.state).toBe("completed");
  });
  const [again] = old.work;
  if (!again) throw new Error("the old job had no attempt");
  const answer = await finishAttempt(engine.ctx, {
    attemptId: again.attemptId,
    fence: again.fence,
    hostId: h.hostId,
    outcome: "succeeded",
    result: {},
    outputs: [],
    failure: null,
    usage: [],
  });
  expect(answer).toEqual({ applied: false });
});

test("bytes that no job names go a day later, those that another job names too or that are asked for stay", async () => {
  const h = await engine.host("ha");
  const alone = await done(h, 100, "alone");
  const shared = await done(h, 100, "shared");
  const other = await done(h, 1, "shared");
  expect(other.sha256).toBe(shared.sha256);
  const unknown = await engine.ctx.artifacts.ingest(bytes("unknown"), 100);
  const asked = await done(h, 100, "asked");
  await engine.sql(`update artifacts set created_at = clock_timestamp() - interval '2 days'`);
  // All files are old, but one was asked for a moment ago (what the folder makes of that: artifacts/unnamed.test.ts).
  const { artifacts } = engine.ctx;
  const later: Context = {
    ...engine.ctx,
    artifacts: {
      ...artifacts,
      idle: () => artifacts.idle(0),
      remove: (sha256) => artifacts.remove(sha256, sha256 === asked.sha256 ? Number.POSITIVE_INFINITY : 0),
    },
  };
  const turn = await pruneHistory(later);
  expect([turn.jobs, turn.artifacts]).toEqual([3, 2]);
  const sizes = [alone, shared, unknown, asked].map(({ sha256 }) => artifacts.size(sha256));
  expect(await Promise.all(sizes)).toEqual([undefined, 6, undefined, 5]);
  expect(await engine.sql(`select sha256 from artifacts`)).toEqual([{ sha256: shared.sha256 }]);
});

test("events and sessions of hosts, keys, tokens, certificates and idle shares go after their time and not before", async () => {
  const h = await engine.host("ha");
  await engine.reopen(h.hostId);
  await engine.submit({}, "young");
  await engine.submit({}, "old");
  await relay();
  const ago = (n: number) => `clock_timestamp() - interval '${n} days'`;
  await engine.sql(`update idempotency set created_at = ${ago(2)} where key = 'old'`);
  await engine.sql(`update shares set next_at = ${ago(1)}`);
  await engine.sql(
    `insert into events (type, host_id, body, at, published_seq) values ('host.offline', 'x', '{}', ${ago(40)}, null),
       ('host.offline', 'x', '{}', ${ago(40)}, -5), ('host.offline', 'x', '{}', ${ago(20)}, -4)`,
  );
  await engine.sql(`update host_sessions set opened_at = ${ago(50)}, closed_at = ${ago(40)}`);
  await engine.sql(
    `insert into join_tokens (id, secret_sha256, max_uses, uses, expires_at, created_at) values
       ('used', '', 1, 1, ${ago(-1)}, ${ago(40)}), ('expired', '', 1, 0, ${ago(39)}, ${ago(40)}),
       ('good', '', 2, 1, ${ago(-1)}, ${ago(40)}), ('fresh', '', 1, 1, ${ago(-1)}, ${ago(1)})`,
  );
  await engine.sql(
    `insert into certificates (serial, host_id, public_key_sha256, pem, issued_at, expires_at, superseded_at, first_used_at) values
       ('replaced', $1, '', '', ${ago(60)}, ${ago(-1)}, ${ago(40)}, ${ago(60)}), ('successor', $1, '', '', ${ago(40)}, ${ago(-1)}, null, ${ago(39)})`,
    [h.hostId],
  );
  const lost = await engine.host("hb");
  await engine.sql(`update certificates set superseded_at = ${ago(40)} where host_id = $1`, [lost.hostId]);
  await engine.sql(
    `insert into certificates (serial, host_id, public_key_sha256, pem, issued_at, expires_at) values ('never-used', $1, '', '', ${ago(40)}, ${ago(-1)})`,
    [lost.hostId],
  );
  const turn = await pruneHistory(engine.ctx);
  expect(turn).toMatchObject({ hostEvents: 1, sessions: 1, keys: 1, joinTokens: 2, certificates: 1, shares: 2 });
  expect(await engine.sql(`select key from idempotency`)).toEqual([{ key: "young" }]);
  expect((await engine.sql(`select id from join_tokens order by id`)).map((r) => r.id)).toEqual(["fresh", "good"]);
  // The answer with the successor got lost: the old certificate is still the host's way in.
  expect((await engine.sql(`select serial from certificates order by serial`)).map((r) => r.serial)).toEqual(
    ["never-used", `serial-${h.hostId}`, `serial-${lost.hostId}`, "successor"].sort(),
  );
  expect(await count("events", "host_id = 'x'")).toBe(2);
  expect(await count("host_sessions", `host_id = '${h.hostId}'`)).toBe(1);
});

test("the loop goes on at once while there is more, and a walk over all artifacts begins once a day", async () => {
  const h = await engine.host("ha");
  const { id } = await done(h, 100);
  await engine.sql(
    `insert into jobs (id, pipeline, pipeline_version, user_id, channel_id, request, estimated_micros, halt_micros, rank, state, started_at, ended_at)
     select 'v_' || lpad(n::text, 26, '0'), 'pair', 1, 'u', 'c', '{}', 0, 0, n, 'cancelled', at, at
     from generate_series(1, 120) n, (select clock_timestamp() - interval '95 days' as at) t`,
  );
  const loop = createRetention(engine.ctx);
  await loop.runOnce();
  // The oldest hundred days' job first.
  expect([await count("jobs"), await count("jobs", `id = '${id}'`)]).toEqual([21, 0]);
  await loop.runOnce();
  expect(await count("jobs")).toBe(0);
  expect(await days()).toMatchObject([{ jobs: 121, completed: 1 }]);
  const memory = newPruneMemory();
  await pruneHistory(engine.ctx, memory, defaultRetention, 0);
  await engine.sql(
    `insert into artifacts (sha256, size_bytes, created_at) values (repeat('a', 64), 1, clock_timestamp() - interval '2 days')`,
  );
  await pruneHistory(engine.ctx, memory, defaultRetention, dayMs - 1);
  expect(await count("artifacts", "sha256 = repeat('a', 64)")).toBe(1);
  await pruneHistory(engine.ctx, memory, defaultRetention, dayMs);
  expect(await count("artifacts", "sha256 = repeat('a', 64)")).toBe(0);
});
