// Two acts at once on a real database: what one of them read is no longer true when it writes. Nothing may be lost, done twice,
// or decided on the older view. Every story ends with the invariants.
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { parsePipeline } from "../domain/pipeline.ts";
import { acceptOffer } from "../operations/accept-offer.ts";
import { cancelJob } from "../operations/cancel-job.ts";
import type { Context } from "../operations/context.ts";
import { openSession } from "../operations/open-session.ts";
import { placeStages } from "../operations/place-stages.ts";
import { reapLeases, restartCountdown } from "../operations/reap-leases.ts";
import { recordHealth, renewLeases } from "../operations/renew-leases.ts";
import { takeOffers } from "../operations/take-offers.ts";
import { wakeStages } from "../operations/wake-stages.ts";
import { restartLeasesOfPool } from "../store/valves.ts";
import { type Engine, inventory, openEngine } from "./engine.ts";
import { brokenInvariants } from "./invariants.ts";

/** Three stages side by side, and a dear one that only a special host can run. */
const wide = parsePipeline(
  {
    name: "wide",
    version: 1,
    title: "Wide",
    estimate: { simple: 1, complex: 1, premium: 1 },
    target: { seconds: 600, cost: 2.5 },
    request: { type: "object" },
    stages: ["left", "right", "third", "special"].map((name) => ({
      name,
      kind: name === "special" ? "special" : "noop",
      needs: name === "special" ? ["left"] : [],
      timeout: "60s",
      retries: 1,
      estimated_cost: name === "special" ? 2 : 0.5,
      resources: { cores: 1, memory: "64MiB", scratch: "1MiB" },
    })),
  },
  "wide",
);

let engine: Engine;
beforeEach(async () => {
  engine = await openEngine({ timings: { leaseMs: 1000, graceMs: 0, offerMs: 1000 } });
  (engine.ctx.pipelines as Map<string, typeof wide>).set("wide", wide);
});
afterEach(async () => {
  expect(await brokenInvariants((text) => engine.sql(text))).toEqual([]);
  await engine.close();
});

type Host = { readonly hostId: string; readonly epoch: bigint };
const firstOffer = async (h: Host) => {
  const [offer] = await engine.offers(h);
  if (!offer) throw new Error("nothing was offered");
  return offer;
};
const pastLease = (attemptId: string) =>
  engine.sql(`update attempts set lease_until = clock_timestamp() - interval '1 minute' where id = $1`, [attemptId]);
/** The same context, with `act` done once, right after the first direct statement that contains `part` was answered. */
const after = (part: string, act: () => Promise<unknown>): Context => {
  let isDone = false;
  const { db } = engine.ctx;
  const direct: typeof db.direct = {
    query: async (sql, params) => {
      const answer = await db.direct.query<never>(sql, params);
      if (!isDone && sql.includes(part)) {
        isDone = true;
        await act();
      }
      return answer;
    },
  };
  return { ...engine.ctx, db: { ...db, direct } };
};

describe("the reaper is late", () => {
  test("a lease that was renewed after it looked is not taken away", async () => {
    const h = await engine.host("a");
    const id = await engine.submit();
    const offer = await firstOffer(h);
    await engine.accept(h, offer);
    await pastLease(offer.attemptId);
    const renewal = { ...h, attemptId: offer.attemptId, fence: offer.fence, progress: 0, step: "", etaMs: null };
    expect(await reapLeases(after("lease_until <", () => renewLeases(engine.ctx, [renewal])))).toBe(0);
    expect((await engine.detail(id)).stages[0]?.state).toBe("running");
  });

  test("an offer that was accepted after it looked runs on", async () => {
    const h = await engine.host("a");
    const id = await engine.submit();
    const offer = await firstOffer(h);
    await pastLease(offer.attemptId);
    const accept = () => acceptOffer(engine.ctx, { ...h, attemptId: offer.attemptId, fence: offer.fence });
    expect(await reapLeases(after("lease_until <", accept))).toBe(0);
    expect((await engine.detail(id)).stages[0]?.state).toBe("running");
  });
});

test("a Hello that the store answers late does not lose what a newer session began", async () => {
  const h = await engine.host("a");
  const id = await engine.submit();
  const hello = {
    hostId: h.hostId,
    serial: `serial-${h.hostId}`,
    instanceId: "i",
    agentVersion: "1",
    protocolMin: 1,
    protocolMax: 1,
    inventory,
    attempts: [],
  };
  // The agent gave up on the first Hello, came back with another, and runs an offer of the newer session.
  const late = after("insert into host_sessions", async () => {
    const { epoch } = await openSession(engine.ctx, hello);
    const offer = await firstOffer({ hostId: h.hostId, epoch });
    expect(await engine.accept({ hostId: h.hostId, epoch }, offer)).toBe(true);
  });
  await openSession(late, hello);
  expect((await engine.detail(id)).stages[0]?.state).toBe("running");
});

test("stages that fit nowhere do not keep those behind them from free hosts", async () => {
  const id = await engine.submit({ priority: 1 });
  const stuck = await engine.submit({ pipeline: "wide" });
  // 450 of a kind that no host can run, all ahead of it: more than two whole batches.
  await engine.sql(
    `insert into jobs (id, pipeline, pipeline_version, user_id, channel_id, request, estimated_micros, halt_micros, rank)
     select 'v_' || lpad(n::text, 26, '0'), 'wide', 1, 'u', 'c', '{}', 0, 3000000, 0 from generate_series(1, 450) n`,
  );
  await engine.sql(
    `insert into stages (job_id, position, name, kind, state, spec, open_needs, estimated_micros, rank, user_id, pipeline, shape)
     select 'v_' || lpad(n::text, 26, '0'), 0, 'special', 'special', 'ready', s.spec, 0, 0, 0, 'u', 'wide', s.shape
     from stages s, generate_series(1, 450) n where s.job_id = $1 and s.name = 'special'`,
    [stuck],
  );
  await cancelJob(engine.ctx, stuck, "");
  const h = await engine.host("a");
  await placeStages(engine.ctx);
  expect((await takeOffers(engine.ctx, h)).map((o) => o.jobId)).toEqual([id]);
});

test("a host that refuses for ever is remembered once, with its last reason", async () => {
  const a = await engine.host("a");
  const id = await engine.submit();
  for (const message of ["disk low", "disk lower", "disk lowest"]) {
    const offer = await firstOffer(a);
    const failure = { failureClass: "disk_full", severity: "", message };
    await engine.finish(a.hostId, offer, { outcome: "refused", failure });
    await engine.sql(`update stages set run_at = clock_timestamp() where job_id = $1`, [id]);
  }
  expect((await engine.detail(id)).stages[0]?.avoid).toEqual([{ hostId: a.hostId, reason: "disk lowest" }]);
});

test("a host that gives back what nobody cancelled is not offered it again at once for ever", async () => {
  const h = await engine.host("a");
  await engine.submit();
  for (let i = 0; i < 2; i++) {
    const offer = await firstOffer(h);
    await engine.accept(h, offer);
    await engine.finish(h.hostId, offer, { outcome: i === 0 ? "interrupted" : "cancelled" });
  }
  expect(await engine.offers(h)).toEqual([]);
});

describe("a job that must end while hosts hold its stages", () => {
  test("a cost limit that stops it stops the siblings, tells their hosts, and ends it once", async () => {
    const h = await engine.host("a");
    const id = await engine.submit({ pipeline: "wide", cost_limit: 2 });
    const [left, right, third] = await engine.offers(h);
    if (!left || !right || !third) throw new Error("three stages were not offered");
    await engine.accept(h, left);
    await engine.accept(h, right);
    await engine.finish(h.hostId, left);
    let rings = 0;
    const unlisten = engine.ctx.bus.on(`host:${h.hostId}`, () => {
      rings++;
    });
    await placeStages(engine.ctx);
    await vi.waitFor(() => expect(rings).toBe(1));
    unlisten();
    const states = (await engine.detail(id)).stages.map((s) => s.state);
    expect(states).toEqual(["succeeded", "cancelling", "cancelling", "failed"]);
    expect((await engine.detail(id)).job.state).toBe("processing");
    // One says that it stopped; the other was never accepted and its offer runs out.
    await engine.finish(h.hostId, right, { outcome: "cancelled" });
    expect(await engine.accept(h, third)).toBe(false);
    await pastLease(third.attemptId);
    await reapLeases(engine.ctx);
    expect((await engine.detail(id)).job).toMatchObject({ state: "failed", heldMicros: 0n });
  });

  test("a cancel while its stages are only offered ends it when the offers have run out, without a charge", async () => {
    const h = await engine.host("a");
    const id = await engine.submit();
    const offer = await firstOffer(h);
    await cancelJob(engine.ctx, id, "");
    expect(await engine.accept(h, offer)).toBe(false);
    await pastLease(offer.attemptId);
    await reapLeases(engine.ctx);
    expect((await engine.detail(id)).job).toMatchObject({ state: "cancelled", heldMicros: 0n, spentMicros: 0n });
  });
});

describe("locks", () => {
  test("waking a retry and cancelling its job wait for each other without a deadlock", async () => {
    const h = await engine.host("a");
    const id = await engine.submit();
    const offer = await firstOffer(h);
    await engine.accept(h, offer);
    await engine.finish(h.hostId, offer, {
      outcome: "failed",
      failure: { failureClass: "timeout", severity: "", message: "slow" },
    });
    await engine.sql(`update stages set run_at = clock_timestamp() where state = 'waiting'`);
    // The waker has moved the stage; before it writes its event, the cancel takes the job and waits for the stage.
    const { db } = engine.ctx;
    let cancelling: Promise<void> | undefined;
    let tries = 0;
    const counted = (beforeEvents: () => Promise<void>): Context => {
      const transaction: typeof db.transaction = (act) =>
        db.transaction((tx) => {
          tries++;
          return act({
            query: async (sql, params) => {
              if (sql.startsWith("insert into events") && sql.includes("jsonb_to_recordset")) await beforeEvents();
              return tx.query(sql, params);
            },
          });
        });
      return { ...engine.ctx, db: { ...db, transaction } };
    };
    await wakeStages(
      counted(async () => {
        cancelling ??= cancelJob(
          counted(async () => {}),
          id,
          "",
        );
        await expectWaiter();
      }),
    );
    await cancelling;
    expect(tries).toBe(2);
    expect((await engine.detail(id)).job.state).toBe("cancelled");
  });

  test("heartbeats of many hosts and placement lock hosts in one order", async () => {
    const hosts: Host[] = [];
    for (const name of ["c", "a", "b"]) hosts.push(await engine.host(name));
    const seen = hosts.map((h) => ({ ...h, health: {} }));
    // Somebody holds the first one, so that the heartbeats wait inside their statement.
    const { db } = engine.ctx;
    let waiting: Promise<unknown> | undefined;
    await db.transaction(async (tx) => {
      await tx.query(`select 1 from hosts where name = 'a' for update`);
      const heartbeats = recordHealth(engine.ctx, seen);
      await expectWaiter();
      const held = await engine.sql<{ name: string }>(
        `select name from hosts where name <> 'a' and id in (select id from hosts for update skip locked) order by name`,
      );
      // In the order of ids none is held while it waits for the first.
      expect(held.map((row) => row.name)).toEqual(["b", "c"]);
      waiting = heartbeats;
    });
    expect(await waiting).toEqual(new Set(hosts.map((h) => h.hostId)));
  });

  test.each([
    ["countdowns that start again", (ctx: Context) => restartCountdown(ctx)],
    ["those of a pool", (ctx: Context) => ctx.db.transaction((tx) => restartLeasesOfPool(tx, "default", 1_000))],
  ] as const)("%s lock attempts in the order that heartbeats do", async (_, restart) => {
    const h = await engine.host("a");
    for (let i = 0; i < 3; i++) await engine.submit();
    for (const offer of await engine.offers(h)) await engine.accept(h, offer);
    const ids = (await engine.sql<{ id: string }>(`select id from attempts order by id`)).map((row) => row.id);
    // The first by its id lies last in the table.
    await engine.sql(
      `update attempts set allocation = allocation || jsonb_build_object('fill', repeat('x', 9000)) where id = $1`,
      [ids[0]],
    );
    const { db } = engine.ctx;
    let waiting: Promise<unknown> | undefined;
    await db.transaction(async (tx) => {
      await tx.query(`select 1 from attempts where id = $1 for update`, [ids[0]]);
      waiting = restart(engine.ctx);
      await expectWaiter();
      const free = await engine.sql<{ id: string }>(
        `select id from attempts where id in (select id from attempts for update skip locked) order by id`,
      );
      expect(free.map((row) => row.id)).toEqual(ids.slice(1));
    });
    await waiting;
  });
});

/** Until some statement waits for a lock. */
const expectWaiter = async (): Promise<void> => {
  const until = performance.now() + 2_000;
  for (;;) {
    const [row] = await engine.sql<{ n: number }>(
      `select count(*)::int as n from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
    );
    if ((row?.n ?? 0) > 0) return;
    if (performance.now() > until) throw new Error("nothing waits for a lock");
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
};
