// The checker is checked: every invariant is broken on purpose, by hand and behind the back of the rules that keep it, and must then
// be named. Breaking happens in a transaction that is rolled back, so one small fleet serves all of them.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { relayEvents } from "../operations/relay-events.ts";
import { type Engine, openEngine } from "./engine.ts";
import { quietInvariants } from "./fleet-invariants.ts";
import { brokenInvariants, brokenOf, instantInvariants } from "./invariants.ts";

let engine: Engine;
let facts: { done: string; live: string; queued: string };

beforeAll(async () => {
  engine = await openEngine();
  const host = await engine.host("a");
  await engine.sql(`insert into artifacts (sha256, size_bytes) values (repeat('a', 64), 1)`);
  const done = await engine.submit();
  for (let stage = 0; stage < 2; stage++) {
    const [offer] = await engine.offers(host);
    if (!offer) throw new Error("no offer");
    await engine.accept(host, offer);
    await engine.finish(host.hostId, offer);
  }
  const live = await engine.submit();
  const [offer] = await engine.offers(host);
  if (!offer) throw new Error("no offer");
  await engine.accept(host, offer);
  await engine.sql(`update hosts set intent = 'cordoned'`);
  const queued = await engine.submit();
  await relayEvents(engine.ctx);
  facts = { done, live, queued };
});
afterAll(() => engine.close());

class Undo extends Error {}

/** Breaks by hand, answers what the checker names, and takes everything back. */
const brokenAfter = async (statements: string, invariants = instantInvariants): Promise<string[]> => {
  let broken: string[] = [];
  await engine.ctx.db
    .transaction(async (tx) => {
      await tx.query("set local session_replication_role = replica");
      for (const statement of statements.split(";").filter((text) => text.trim() !== ""))
        await tx.query(statement.replaceAll(/\b(DONE|LIVE|QUEUED)\b/g, (name) => `'${facts[keys[name] ?? "done"]}'`));
      broken = await brokenOf(async (text) => (await tx.query(text)).rows, invariants);
      throw new Undo();
    })
    .catch((error: unknown) => {
      if (!(error instanceof Undo)) throw error;
    });
  return broken;
};
const keys: { readonly [word: string]: keyof typeof facts } = { DONE: "done", LIVE: "live", QUEUED: "queued" };

const firstDone = "(select id from stages where job_id = DONE and position = (select min(position) from stages))";
const liveAttempt = "(select id from attempts where job_id = LIVE)";
const copyAttempt = (
  change: string,
) => `insert into attempts (id, stage_id, job_id, host_id, number, fence, state, outcome, allocation, hold_micros, lease_until, ended_at)
  select 'a_' || repeat('9', 26), stage_id, job_id, host_id, number + 1, ${change} from attempts where job_id = LIVE`;

/** Every invariant with the hand that breaks it. */
const hands: { readonly [name: string]: string } = {
  "I1 more than one live attempt of a stage": `drop index attempts_one_live; ${copyAttempt("nextval('fences'), 'offered', null, allocation, 0, lease_until, null")}`,
  "I2 fences do not grow with the attempt number": copyAttempt(
    "-1, 'ended', 'failed', allocation, 0, lease_until, now()",
  ),
  "I2 a fence was given that its sequence has not reached": `update attempts set fence = 1000000 where job_id = LIVE`,
  "I3 a published fence is not that of the succeeded attempt": `update stages set output_fence = 999 where id = ${firstDone}`,
  "I3 a succeeded attempt whose fence was not published": `update stages set output_fence = 999 where id = ${firstDone}`,
  "I3 files of an attempt that did not succeed": `insert into files (job_id, stage, fence, name, sha256, media_type) values (DONE, 'first', 999, 'out.txt', repeat('a', 64), 'text/plain')`,
  "I4 a live job in which nothing can happen": `update stages set state = 'pending', open_needs = 1 where job_id = QUEUED`,
  "I4 a stage that waits for nothing is not in the queue": `update stages set state = 'pending' where job_id = QUEUED`,
  "I4 open needs are not those that have not succeeded": `update stages set open_needs = 2 where job_id = QUEUED and state = 'pending'`,
  "I5 a final job without exactly one terminal event": `delete from events where is_terminal`,
  "I5 a terminal event that says something else than the job": `update events set type = 'job.failed' where is_terminal`,
  "I6 a job ended while a stage of it can still move": `update stages set state = 'ready', output_fence = null, ended_at = null where id = ${firstDone}`,
  "I6 a job's end is not what its stages say": `update jobs set state = 'failed' where id = DONE`,
  "I7 held is not the sum of holds minus releases": `update jobs set held_micros = held_micros + 1 where id = LIVE`,
  "I7 spent is not the sum of charges": `update jobs set spent_micros = spent_micros + 1 where id = DONE`,
  "I7 an attempt's charge is not the sum of its charges": `update attempts set charge_micros = charge_micros + 1 where job_id = DONE`,
  "I8 more is held and spent than the job may cost": `update jobs set halt_micros = 0 where id = LIVE`,
  "I9 an ended attempt without exactly one hold and one release": `delete from ledger where kind = 'release' and job_id = DONE`,
  "I9 hold and release of an attempt differ": `update ledger set micros = micros + 1 where kind = 'release' and job_id = DONE`,
  "I9 a charge for an attempt that never began or has not ended": `insert into ledger (job_id, attempt_id, kind, service, micros) select job_id, id, 'charge', 'x', 1 from attempts where job_id = LIVE`,
  "I10 a stage was completed twice": `insert into events (type, job_id, body) select type, job_id, body from events where type = 'stage.completed'`,
  "I10 an accept was applied twice": `insert into events (type, job_id, body) select type, job_id, body from events where type = 'stage.started'`,
  "I12 an attempt was offered to a session that the host never had": `update attempts set offered_epoch = 99`,
  "I12 a host's epoch is behind its sessions": `insert into host_sessions (host_id, epoch, instance_id, replica, closed_at) select id, epoch + 1, 'i', 'r', now() from hosts`,
  "I17 a stage began before what it needs": `update stages set attempts = 1 where job_id = QUEUED`,
  "I18 a stage was tried more often than its pipeline allows": `update stages set tries = 3 where job_id = LIVE`,
  "I18 tries that no attempt accounts for": `update stages set tries = 1 where job_id = QUEUED`,
  "I18 attempts are not numbered as they came": `update stages set attempts = attempts + 1 where job_id = LIVE`,
  "a leased stage without a live attempt, or the reverse": `update attempts set state = 'ended', outcome = 'lost', ended_at = now() where job_id = LIVE`,
  "I4 an attempt whose lease ended long ago is still live": `update attempts set lease_until = now() - interval '10 minutes' where id = ${liveAttempt}`,
  "I4 a stage waits although its time has come": `update stages set state = 'waiting', run_at = now() - interval '10 minutes' where job_id = QUEUED and state = 'ready'`,
  "I5 an event that nobody numbered": `update events set published_seq = null where is_terminal`,
  "I5 events of a job are numbered in another order than they happened": `update events set published_seq = -published_seq`,
  "I5 a job's first event is not job.queued": `delete from events where type = 'job.queued'`,
  "I5 a stage moved after its job's terminal event": `insert into events (type, job_id, body) values ('stage.ready', DONE, '{}')`,
  "I9 more time was charged than has passed": `update ledger set basis = basis || '{"quantity": 1000000}' where kind = 'charge'`,
  "I12 a host with more than one open session": `insert into host_sessions (host_id, epoch, instance_id, replica) select id, epoch + n, 'i', 'r' from hosts, generate_series(100, 101) n`,
  "I12 a host is held by a replica that is not there": `insert into replicas (id, name, version) values ('another.00000000', 'another', '1'); update hosts set replica = 'gone.00000000'`,
  "I16 a host without a valid certificate was heard": `update certificates set revoked_at = now() - interval '1 minute'`,
};

describe("every invariant is named when it is broken", () => {
  const all = { ...instantInvariants, ...quietInvariants(60_000) };
  test("the fleet that is broken was in order", async () => {
    expect(await brokenInvariants((text) => engine.sql(text))).toEqual([]);
    expect(await brokenOf((text) => engine.sql(text), all)).toEqual([]);
  });
  test("each has a hand that breaks it", () => {
    expect(Object.keys(hands).sort()).toEqual(Object.keys(all).sort());
  });
  test.each(Object.entries(hands))("%s", async (name, statements) => {
    const broken = await brokenAfter(statements, all);
    expect(broken.map((text) => text.split(": ")[0])).toContain(name);
  });
});
