// Plays one list of events on an empty database and judges it: after every event what must hold at every instant, and once all is
// healed and quiet what must hold in the end. Answers the words of the history and what was broken, if anything.
import { announcementsOf } from "../../control-plane/src/domain/event.ts";
import type { InventoryRecord } from "../../control-plane/src/domain/records.ts";
import { eventsAfter } from "../../control-plane/src/store/events.ts";
import { inventory } from "../../control-plane/src/testing/engine.ts";
import { brokenInvariants } from "../../control-plane/src/testing/invariants.ts";
import { isAwake, mayWork } from "./agent.ts";
import { judge } from "./judge.ts";
import { advance, changeHost, flow, performEvent, sendOrder, startReplica } from "./perform-event.ts";
import { type Event, heartbeatMs } from "./plan.ts";
import type { Lane } from "./replica.ts";
import type { Rig } from "./rig.ts";
import { takeSnapshot } from "./snapshot.ts";
import { at, createWorld, epochMs, say, Violation, type World } from "./world.ts";

export type Verdict = {
  readonly words: readonly string[];
  /** What was broken; undefined: nothing. */
  readonly broken: string | undefined;
};

export const play = async (rig: Rig, seed: number, events: readonly Event[]): Promise<Verdict> => {
  const world = createWorld(rig, seed);
  const lane: Lane = { db: at(rig.lanes, 0).db };
  try {
    await begin(world);
    for (const replica of world.replicas) await startReplica(world, replica, lane);
    for (const event of events) {
      await performEvent(world, event, lane);
      await check(world);
    }
    await quiesce(world, lane);
    await judgeTheEnd(world);
    return { words: world.words, broken: undefined };
  } catch (error) {
    const broken = error instanceof Violation ? error.message : `an operation threw ${said(error)}`;
    return { words: [...world.words, broken], broken };
  }
};

const said = (error: unknown): string => {
  if (!(error instanceof Error)) return String(error);
  const constraint = "constraint" in error && error.constraint ? ` (${String(error.constraint)})` : "";
  return `${error.name}: ${error.message}${constraint}${error.name === "TypeError" ? `\n${error.stack}` : ""}`;
};

const begin = async (world: World): Promise<void> => {
  const { database } = world.rig;
  await database.reset();
  await database.setTime(epochMs);
  const hosts = world.agents;
  const about: InventoryRecord = inventory;
  await database.observer.direct.query(
    `with h as (insert into hosts (id, name, inventory) select id, name, $4 from unnest($1::text[], $2::text[]) as h(id, name) returning id)
     insert into certificates (serial, host_id, public_key_sha256, pem, expires_at)
     select c.serial, c.id, '', '', clock_timestamp() + interval '1 year' from unnest($1::text[], $3::text[]) as c(id, serial)`,
    [hosts.map((h) => h.hostId), hosts.map((h) => h.name), hosts.map((h) => h.serial), JSON.stringify(about)],
  );
};

/** What must hold at this very moment. */
const check = async (world: World): Promise<void> => {
  const [fault] = world.faults;
  if (fault) throw new Violation(fault);
  const working = world.agents.flatMap((agent) =>
    [...agent.runs.values()]
      .filter((run) => run.isExclusive && mayWork(run, world.nowMs, world.rig.timings) && run.doneAtMs > world.nowMs)
      .map((run) => ({ agent, run })),
  );
  for (const [index, { agent, run }] of working.entries()) {
    const other = working.slice(index + 1).find((w) => w.run.jobId === run.jobId && w.run.stage === run.stage);
    if (other)
      throw new Violation(
        `the exclusive stage ${run.stage} of ${run.jobId} runs on ${agent.name} and ${other.agent.name} at once`,
      );
  }
  if (!world.isTouched) return;
  const now = await takeSnapshot(world.rig.database.observer.direct);
  const broken = judge(now, world.snapshot);
  world.snapshot = now;
  world.isTouched = false;
  if (broken) throw new Violation(broken);
};

/** Rounds of a heartbeat until everything has ended. A stage can be lost and tried again a few times in them. */
const maxRounds = 150;
/** From this round on the rounds are longer, so that the longest window (a closed valve) passes too. */
const calmRounds = 50;

const quiesce = async (world: World, lane: Lane): Promise<void> => {
  say(world, "everything is healed");
  for (const replica of world.replicas) await startReplica(world, replica, lane);
  for (const agent of world.agents) {
    agent.stalledUntilMs = 0;
    if (!agent.isUp) await performEvent(world, { kind: "start-agent", agent: agent.index }, lane);
    if (!agent.isRevoked)
      for (const change of ["release", "open"] as const) await changeHost(world, agent, change, lane);
  }
  for (const order of world.orders)
    if (order.ids.size === 0) await sendOrder(world, order, at(world.replicas, 0), lane);
  for (let round = 0; ; round++) {
    await flow(world, lane);
    await check(world);
    if (isQuiet(world)) return;
    if (round > maxRounds)
      throw new Violation(`I19 all is healed, and after ${round} rounds there is still ${restOf(world)}`);
    await advance(world, round < calmRounds ? heartbeatMs : 10 * heartbeatMs);
  }
};

const isQuiet = (world: World): boolean =>
  world.messages.length === 0 &&
  world.snapshot !== undefined &&
  world.snapshot.jobs.every((job) => job.end !== null) &&
  world.snapshot.attempts.every((attempt) => attempt.state === "ended") &&
  world.snapshot.events.every((event) => event.seq !== null) &&
  world.agents.every((agent) => agent.isRevoked || (isAwake(agent, world.nowMs) && agent.runs.size === 0));

const restOf = (world: World): string =>
  [
    ...(world.snapshot?.stages ?? []).filter((s) => s.end === null).map((s) => `${s.name} of ${s.job}, ${s.state}`),
    ...(world.snapshot?.events ?? []).filter((e) => e.seq === null).map((e) => `event ${e.id}, not published`),
    ...world.agents.filter((a) => !a.isRevoked && a.runs.size > 0).map((a) => `${a.name} with ${a.runs.size} runs`),
  ].join("; ");

const judgeTheEnd = async (world: World): Promise<void> => {
  const { direct } = world.rig.database.observer;
  const [broken] = await brokenInvariants(async (text) => (await direct.query(text)).rows);
  if (broken) throw new Violation(broken);
  const { jobs, attempts } = world.snapshot ?? { jobs: [], attempts: [] };
  if (jobs.length !== world.orders.length)
    throw new Violation(`I4 ${world.orders.length} jobs were ordered, there are ${jobs.length}`);
  for (const order of world.orders) {
    const [id] = order.ids;
    const job = jobs.find((j) => j.id === id);
    if (!job) throw new Violation(`I4 ${order.key} was answered with ${id}, which is not there`);
    if (order.isCancelled && job.state === "completed") throw new Violation(`${job.id} was cancelled, and completed`);
  }
  // Effects once: what a host was told, what it did and what counts are the same.
  const won = new Set(attempts.filter((a) => a.outcome === "succeeded").map((a) => a.id));
  for (const { attemptId, applied } of world.told)
    if (applied !== won.has(attemptId))
      throw new Violation(
        `I10 the host of ${attemptId} was told that it ${applied ? "counted" : "did not count"}, the database says otherwise`,
      );
  for (const id of won) if (!world.made.has(id)) throw new Violation(`I10 ${id} counts as done, and no host did it`);
  await judgeMessages(world);
};

/** A live message may be lost; it is never sent twice, and never without its event. */
const judgeMessages = async (world: World): Promise<void> => {
  const events = await eventsAfter(world.rig.database.observer.direct, { seq: 0n, limit: 10_000 });
  const due = events.flatMap((event) => announcementsOf(event).map((a) => JSON.stringify([a.channel, a.message])));
  for (const message of world.published) {
    const index = due.indexOf(message);
    if (index < 0) throw new Violation(`published more often than its event was committed: ${message}`);
    due.splice(index, 1);
  }
};
