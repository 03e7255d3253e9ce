// Loops that one replica runs at a time: who runs them, what a change of the leader costs, and that a loop begins anew.
import { type Rhythm, rhythm } from "@renderplane/proto/kernel/process/rhythm.ts";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Context } from "../operations/context.ts";
import { type Engine, openEngine } from "../testing/engine.ts";
import { type LedLoop, led } from "./led.ts";

let engine: Engine;
beforeAll(async () => {
  engine = await openEngine();
});
afterAll(() => engine.close());

const until = async (what: string, holds: () => boolean): Promise<number> => {
  const began = performance.now();
  while (!holds()) {
    if (performance.now() - began > 20_000) throw new Error(`waited 20 s for: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  return performance.now() - began;
};

type Seen = {
  readonly loop: LedLoop;
  readonly turns: () => number;
  readonly made: () => number;
  cut: boolean;
};
/** A replica whose connection to the database can be cut. */
const replica = (loop: string, name: string, leaderMs: number): Seen => {
  const seen = { turns: 0, made: 0 };
  const refused = () => Promise.reject(new Error("cut off"));
  const ctx: Context = {
    ...engine.ctx,
    replica: name,
    timings: { ...engine.ctx.timings, leaderMs },
    db: {
      ...engine.ctx.db,
      direct: { query: (sql, params) => (answer.cut ? refused() : engine.ctx.db.direct.query(sql, params)) },
      transaction: (act) => (answer.cut ? refused() : engine.ctx.db.transaction(act)),
    },
  };
  const make = (own: Context): Rhythm => {
    seen.made += 1;
    return rhythm({
      name: "inner",
      periodMs: 10,
      errorPauseMs: 10,
      turn: async () => {
        await own.db.transaction((tx) => tx.query("select 1"));
        seen.turns += 1;
      },
      onError: () => {},
    });
  };
  const answer: Seen = {
    cut: false,
    turns: () => seen.turns,
    made: () => seen.made,
    loop: led(ctx, loop, make),
  };
  return answer;
};

test("one replica runs the loop; when it stops in order the other begins at once, not after the lease", async () => {
  const [a, b] = [replica("orderly", "a", 6_000), replica("orderly", "b", 6_000)];
  await a.loop.start();
  await until("the first leader", () => a.turns() > 2);
  await b.loop.start();
  await until("the second to have asked", () => b.loop.lead() === undefined);
  expect(a.loop.lead()?.term).toBe(1n);
  await a.loop.stop();
  expect(await until("the second leader", () => b.turns() > 0)).toBeLessThan(3_000);
  expect(b.loop.lead()?.term).toBe(2n);
  const turns = a.turns();
  await until("more turns", () => b.turns() > 3);
  expect(a.turns()).toBe(turns);
  await b.loop.stop();
});

test("a leader that is cut off is replaced within its lease and a try, and follows again with a loop made anew", async () => {
  const leaderMs = 600;
  const [a, b] = [replica("cut", "a", leaderMs), replica("cut", "b", leaderMs)];
  await a.loop.start();
  await until("the first leader", () => a.turns() > 2);
  await b.loop.start();
  a.cut = true;
  expect(await until("the second leader", () => b.turns() > 0)).toBeLessThan(leaderMs + 1_500);
  await until("the first to notice", () => a.loop.lead() === undefined);
  a.cut = false;
  await b.loop.stop();
  await until("the first again", () => a.loop.lead() !== undefined && a.made() === 2);
  expect(a.loop.lead()?.term).toBe(3n);
  await a.loop.stop();
});

test("while the database is away the leader stops; after it the loop goes on under a new term", async () => {
  const leaderMs = 300;
  const a = replica("outage", "a", leaderMs);
  await a.loop.start();
  await until("the leader", () => a.turns() > 0);
  a.cut = true;
  await until("the lead to end", () => a.loop.lead() === undefined);
  const began = performance.now();
  await until("an outage of a second", () => performance.now() - began > 1_000);
  a.cut = false;
  await until("the lead again", () => a.loop.lead() !== undefined);
  expect(a.loop.lead()?.term).toBe(2n);
  await a.loop.stop();
});
