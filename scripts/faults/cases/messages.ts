// Faults of what is said: repeated, stale, out of order, malformed, too large, too many. A raw host says them. F32-F34, F41, F42, F59.
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { readFile } from "node:fs/promises";
import { Outcome } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import { isRefusedWith } from "../answers.ts";
import type { Bed } from "../bed.ts";
import type { FaultCase } from "../case.ts";
import { accept, behave, type Lease, type RawAgent, type RawSession } from "../raw-agent.ts";
import { until } from "../until.ts";
import { pastSince } from "../wait.ts";

type Place = { readonly agent: RawAgent; readonly session: RawSession; readonly lease: Lease; readonly job: string };

/** A raw host with one offer in its hand. */
const withOffer = async (bed: Bed): Promise<Place> => {
  await bed.fleet.startControlPlanes();
  const agent = await bed.raw("raw");
  const session = agent.session();
  await session.ack;
  const [job = ""] = await bed.submit("drill-0");
  await until("an offer", () => session.of("offer").length === 1);
  const [offer] = session.of("offer");
  if (!offer) throw new Error("no offer");
  return { agent, session, lease: offer, job };
};
const started = (session: RawSession, lease: Lease) =>
  until("the start", () => session.of("start").some((start) => start.attemptId === lease.attemptId));
const settlements = async (bed: Bed, attemptId: string) =>
  (await bed.fleet.sql(`select id from ledger where attempt_id = $1 and kind <> 'hold'`, [attemptId])).length;
/** The second stage of the job and whatever else comes, done as it should be. */
const finishRest = async (bed: Bed, place: Place) => {
  place.session.holds.clear();
  const life = behave(place.session, place.agent, { workMs: 10 });
  await bed.settled();
  await life.stop();
};

export const messageCases: readonly FaultCase[] = [
  {
    faults: ["F32"],
    injected: "one result sent fifty times at once, to two replicas",
    fleet: { replicas: 2 },
    run: async (bed) => {
      const place = await withOffer(bed);
      const { agent, session, lease } = place;
      accept(session, lease);
      await started(session, lease);
      const addresses = bed.fleet.replicas.map((replica) => replica.agentAddress);
      const began = performance.now();
      const answers = await Promise.all(
        Array.from({ length: 50 }, (_, n) => agent.complete(lease, addresses[n % addresses.length])),
      );
      const recoverMs = performance.now() - began;
      assert.ok(
        answers.every((answer) => answer.applied),
        "a repeated result was not answered like the first",
      );
      const lines = await settlements(bed, lease.attemptId);
      assert.ok(lines <= 2, `${lines} ledger lines for one result`);
      await finishRest(bed, place);
      return { detectMs: null, recoverMs, note: `ledger lines ${lines}, answers 50` };
    },
  },
  {
    faults: ["F33"],
    injected: "accept, progress, heartbeat, outputs and result under a stale fence",
    run: async (bed) => {
      const place = await withOffer(bed);
      const { agent, session, lease } = place;
      const stale = { ...lease, fence: lease.fence - 1n };
      accept(session, stale);
      session.holds.clear();
      session.beat([stale]);
      session.send({
        $case: "progress",
        value: { ...stale, fraction: 0.9, speed: 0, etaMs: 0n, step: "forged" },
      });
      const answer = await agent.complete(stale).catch((error: unknown) => error);
      assert.ok(
        answer instanceof Error || (answer as { applied: boolean }).applied === false,
        "a stale result counted",
      );
      const outputs = [{ name: "x.txt", sha256: "0".repeat(64), sizeBytes: 1n, mediaType: "text/plain" }];
      const placed = await agent.placeOutputs({ ...stale, outputs }).catch((error: unknown) => error);
      assert.ok(placed instanceof Error, "a stale attempt was given a place for outputs");
      const [row] = await bed.fleet.sql<{ state: string; step: string }>(
        `select state, step from attempts where id = $1`,
        [lease.attemptId],
      );
      assert.deepEqual({ state: row?.state, step: row?.step }, { state: "offered", step: "" });
      accept(session, lease);
      await started(session, lease);
      await agent.complete(lease);
      session.holds.clear();
      // What has ended stays as it ended, under its own fence too.
      const late = await agent.complete({ ...lease, outcome: Outcome.OUTCOME_FAILED });
      assert.equal(late.applied, false);
      assert.equal((await bed.attempts(place.job)).find((each) => each.id === lease.attemptId)?.outcome, "succeeded");
      await finishRest(bed, place);
      return { detectMs: null, recoverMs: null, note: "stale writes accepted 0" };
    },
  },
  {
    faults: ["F34"],
    injected: "the result before the accept, an accept after the end, a cancel before the start",
    allowed: ["completed", "cancelled"],
    run: async (bed) => {
      const place = await withOffer(bed);
      const { agent, session, lease } = place;
      await agent.complete(lease);
      accept(session, lease);
      session.holds.clear();
      await until("the next offer", () => session.of("offer").length === 2);
      const second = session.of("offer")[1];
      if (!second) throw new Error("no second offer");
      await bed.fleet.api("POST", `/api/v1/jobs/${place.job}/cancel`);
      accept(session, second);
      const began = performance.now();
      await until(
        "a stop, or a word that it is over",
        () => session.of("stop").some((stop) => stop.attemptId === second.attemptId),
        10_000,
      );
      const detectMs = performance.now() - began;
      session.holds.clear();
      await agent.complete({ ...second, outcome: Outcome.OUTCOME_CANCELLED });
      await bed.settled();
      return { detectMs, recoverMs: performance.now() - began, note: "stuck 0" };
    },
  },
  {
    faults: ["F41"],
    injected: "random bytes in the place of messages, 1,500 of them on sessions of their own",
    run: async (bed) => {
      await bed.fleet.startControlPlane();
      const good = await bed.raw("good");
      const session = good.session();
      await session.ack;
      const life = behave(session, good, { workMs: 10 });
      const bad = await bed.raw("bad");
      const rssBefore = await rssOf(bed);
      const end = pastSince(45_000);
      let streams = 0;
      let sent = 0;
      for (; streams < 150 && !end(); streams++) {
        const stream = bad.session();
        await stream.ack.catch(() => {});
        for (let n = 0; n < 10; n++, sent++) stream.sendBytes(randomBytes(1 + ((streams * 37 + n * 101) % 900)));
        await Promise.race([stream.ended, until("the stream ended", stream.isOver, 5_000).catch(() => {})]);
        stream.close();
      }
      await bed.submit("drill-0", 3);
      await bed.settled();
      assert.ok(!session.isOver(), "another host lost its session");
      await life.stop();
      const grewMib = ((await rssOf(bed)) - rssBefore) / 1024 ** 2;
      assert.ok(grewMib < 150, `the control plane grew by ${Math.round(grewMib)} MiB`);
      return {
        detectMs: null,
        recoverMs: null,
        note: `${sent} messages, ${streams} sessions, crashes 0, RSS +${Math.round(grewMib)} MiB`,
      };
    },
  },
  {
    faults: ["F42"],
    injected: "a message of 5 MiB, then 10,000 small ones at once",
    run: async (bed) => {
      await bed.fleet.startControlPlane();
      const good = await bed.raw("good");
      const session = good.session();
      await session.ack;
      const life = behave(session, good, { workMs: 10 });
      const bad = await bed.raw("bad");
      const large = bad.session();
      await large.ack;
      const began = performance.now();
      large.sendBytes(Buffer.alloc(5 * 1024 * 1024, 0x0a));
      const error = await large.ended;
      const detectMs = performance.now() - began;
      assert.ok(isRefusedWith(error, [8, 13, 14]), `the stream ended with ${error?.code}`);
      const flood = bad.session();
      await flood.ack;
      const beat = {
        $case: "progress",
        value: { attemptId: "a_x", fence: 1n, fraction: 0, speed: 0, etaMs: 0n, step: "" },
      } as const;
      for (let n = 0; n < 10_000; n++) flood.send(beat);
      const asked = performance.now();
      await bed.submit("drill-0", 3);
      await bed.settled();
      const recoverMs = performance.now() - asked;
      assert.ok(!session.isOver(), "another host lost its session");
      await life.stop();
      return { detectMs, recoverMs, note: flood.isOver() ? "the flood's session was closed" : "the flood was taken" };
    },
  },
  {
    faults: ["F59"],
    injected: "outputs uploaded by half, with other bytes than announced, and after the lease was lost",
    run: async (bed) => {
      const place = await withOffer(bed);
      const { agent, session, lease } = place;
      accept(session, lease);
      await started(session, lease);
      const bytes = randomBytes(4096);
      const sha256 = createHash("sha256").update(bytes).digest("hex");
      const outputs = [{ name: "x.bin", sha256, sizeBytes: 4096n, mediaType: "application/octet-stream" }];
      const { targets } = await agent.placeOutputs({ attemptId: lease.attemptId, fence: lease.fence, outputs });
      const url = new URL(targets[0]?.url ?? "", bed.fleet.url);
      const put = (body: Buffer, offset = 0) =>
        fetch(url, {
          method: "PUT",
          body: new Uint8Array(body),
          headers: { "upload-offset": `${offset}`, "content-type": "application/octet-stream" },
        });
      const wrong = await put(randomBytes(4096));
      assert.ok(!wrong.ok, `other bytes were taken (${wrong.status})`);
      const early = await agent.complete({ ...lease, outputs }).catch((error: unknown) => error);
      const [published] = await bed.fleet.sql<{ count: number }>(
        `select count(*)::int as count from files where stage <> ''`,
      );
      assert.equal(published?.count, 0, "outputs that are not stored were published");
      assert.ok(early !== undefined);
      await finishRest(bed, place);
      return { detectMs: null, recoverMs: null, note: `wrong bytes: ${wrong.status}; wrong artifacts published 0` };
    },
  },
];

/** Of the first replica, by the kernel's word. */
const rssOf = async (bed: Bed): Promise<number> => {
  const status = await readFile(`/proc/${bed.fleet.pid("control-plane")}/status`, "utf8");
  return Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1] ?? 0) * 1024;
};
