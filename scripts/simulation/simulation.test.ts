// The simulation in the suite: seeds of the landed product that must all pass, that a seed replays word for word, and that what it
// looks for is found when it is there. More seeds by hand: npm run test:sim -- --seed 1 --runs 20000.
import { afterAll, beforeAll, expect, test } from "vitest";
import { play } from "./history.ts";
import { type Event, planOf } from "./plan.ts";
import { openRig, type Rig } from "./rig.ts";
import { runSeeds, tell } from "./run.ts";
import { shrink } from "./shrink.ts";

let rig: Rig;
beforeAll(async () => {
  rig = await openRig();
}, 120_000);
afterAll(() => rig.close());

/** What the suite has time for. A run that is slow for another reason plays fewer, and at least `leastSeeds`. */
const seeds = 500;
const leastSeeds = 20;
const budgetMs = 60_000;

test("no seed breaks an invariant, whatever dies, is lost, repeated, late or at once", {
  timeout: 600_000,
}, async () => {
  const end = performance.now() + budgetMs;
  const batch = 10;
  for (let from = 1; from <= seeds && (from <= leastSeeds || performance.now() < end); from += batch) {
    const { failures } = await runSeeds(rig, { from, runs: batch });
    expect(failures.map(tell).join("\n")).toBe("");
  }
});

test("a seed replays word for word, also when other histories were played between", { timeout: 120_000 }, async () => {
  // One with operations that are woven into each other, and with replicas that die.
  const isRich = (events: readonly Event[]) =>
    events.filter((e) => e.kind === "together").length >= 3 && events.some((e) => "fault" in e && e.fault);
  const seed = Array.from({ length: 1000 }, (_, n) => 1000 + n).find((n) => isRich(planOf(n))) ?? 0;
  const first = await play(rig, seed, planOf(seed));
  await play(rig, seed + 1, planOf(seed + 1));
  const second = await play(rig, seed, planOf(seed));
  expect(first.words.length).toBeGreaterThan(50);
  expect(second.words.join("\n")).toBe(first.words.join("\n"));
});

test("time moves only when the simulation moves it, for column defaults too", async () => {
  const { observer } = rig.database;
  await rig.database.reset();
  const noon = Date.UTC(2041, 5, 1, 12);
  await rig.database.setTime(noon);
  await observer.direct.query(`insert into artifacts (sha256, size_bytes) values ($1, 1)`, ["a".repeat(64)]);
  const asked = () =>
    observer.direct.query<{ at: Date; now: Date }>(`select created_at as at, clock_timestamp() as now from artifacts`);
  expect((await asked()).rows).toEqual([{ at: new Date(noon), now: new Date(noon) }]);
  await rig.database.setTime(noon + 5);
  expect((await asked()).rows).toEqual([{ at: new Date(noon), now: new Date(noon + 5) }]);
});

test("what is written behind the back of the ledger is named, and the history is told", {
  timeout: 60_000,
}, async () => {
  const events = planOf(3).slice(0, 6);
  // A replica with a bug: it moves money without a word in the ledger. Only the trigger of this database has it.
  const { direct } = rig.database.observer;
  await direct.query(
    `create function simulated.lose_money() returns trigger language plpgsql as $$ begin new.spent_micros := new.spent_micros + 1; return new; end $$`,
  );
  await direct.query(
    `create trigger lose_money before update of held_micros on jobs for each row execute function simulated.lose_money()`,
  );
  try {
    const { failures } = await runSeeds(rig, { from: 3, runs: 1 });
    expect(failures[0]?.broken).toContain("I7");
    expect(failures[0]?.events.length).toBeLessThan(planOf(3).length);
    expect(failures.map(tell).join()).toContain("npm run test:sim -- --seed 3 --runs 1");
  } finally {
    await direct.query(`drop trigger lose_money on jobs`);
    await direct.query(`drop function simulated.lose_money()`);
  }
  expect((await play(rig, 3, events)).broken).toBeUndefined();
});

test("a failing list is shrunk to the events that matter, their parts and no fault that does not", async () => {
  const submit = (pipeline: number): Event => ({
    kind: "submit",
    replica: 0,
    pipeline,
    isTight: false,
    isAgain: false,
  });
  const guilty: Event = { kind: "cancel", replica: 1, pick: 0.5 };
  const events: Event[] = [
    ...Array.from({ length: 20 }, (_, n) => submit(n % 4)),
    { kind: "together", events: [submit(0), { ...guilty, fault: { kind: "abort", at: 3 } }, submit(1)], order: 7 },
    { kind: "flow" },
  ];
  const has = (event: Event): boolean =>
    event.kind === "cancel" || (event.kind === "together" && event.events.some(has));
  expect(await shrink(events, async (candidate) => candidate.some(has))).toEqual([guilty]);
});
