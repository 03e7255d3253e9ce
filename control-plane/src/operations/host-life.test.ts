// The life of hosts as operators see it, on a real database: presence and its events, wishes, drains, revocation, removal.
import { generateKeyPairSync } from "node:crypto";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { presenceOf } from "../domain/presence.ts";
import { makeRequest } from "../identity/testing.ts";
import type { Tx } from "../store/database.ts";
import { countHeld, findHost, listHosts } from "../store/hosts.ts";
import { readStanding, refusalOf } from "../store/identities.ts";
import { type Engine, inventory, openEngine } from "../testing/engine.ts";
import { brokenInvariants } from "../testing/invariants.ts";
import { behindGates } from "../testing/statement-gates.ts";
import { checkCertificate } from "./check-certificate.ts";
import { closeSession } from "./close-session.ts";
import { enrolHost } from "./enrol-host.ts";
import { issueJoinToken } from "./issue-join-token.ts";
import { openSession } from "./open-session.ts";
import { placeStages } from "./place-stages.ts";
import { removeHost } from "./remove-host.ts";
import { recordHealth } from "./renew-leases.ts";
import { revokeCertificate } from "./revoke-certificate.ts";
import { setIntent } from "./set-intent.ts";
import { takeStops } from "./take-offers.ts";
import { viewHost } from "./view-host.ts";
import { watchHosts } from "./watch-hosts.ts";

let engine: Engine;
beforeEach(async () => {
  engine = await openEngine();
});
afterEach(async () => {
  expect(await brokenInvariants((text) => engine.sql(text))).toEqual([]);
  await engine.close();
});

const asked = { reason: "a fan is loud", by: "dana" };
const act = (host: string, name: Parameters<typeof setIntent>[1]["act"], giveBackAfterMs?: number) =>
  setIntent(engine.ctx, { host, act: name, ...asked, ...(giveBackAfterMs !== undefined && { giveBackAfterMs }) });
const events = async (prefix: string) =>
  (
    await engine.sql<{ type: string; body: Record<string, unknown> }>(
      `select type, body from events where type like $1 order by id`,
      [`${prefix}%`],
    )
  ).filter((event) => event.type !== "host.online");
const silence = (hostId: string, beats: number) =>
  engine.sql(`update hosts set last_seen_at = clock_timestamp() - make_interval(secs => $2) where id = $1`, [
    hostId,
    (engine.ctx.timings.heartbeatMs / 1000) * beats,
  ]);
/** As if the watch had listened for an hour. */
const listening = () =>
  engine.sql(
    `insert into pulses (name, at, since) values ('hosts', clock_timestamp(), clock_timestamp() - interval '1 hour')
     on conflict (name) do update set at = excluded.at, since = excluded.since`,
  );
const presence = async (name: string) => {
  const host = await findHost(engine.ctx.db.direct, name);
  return host && presenceOf(host, engine.ctx.timings);
};

describe("presence", () => {
  test("silence, its end and a lost stream are told once each, and what is shown is the same", async () => {
    const h = await engine.host("a");
    await listening();
    expect(await watchHosts(engine.ctx)).toBe(0);
    await silence(h.hostId, 4);
    expect(await presence("a")).toBe("suspect");
    expect([await watchHosts(engine.ctx), await watchHosts(engine.ctx)]).toEqual([1, 0]);
    await recordHealth(engine.ctx, [{ ...h, health: {} }]);
    expect(await presence("a")).toBe("online");
    expect([await watchHosts(engine.ctx), await watchHosts(engine.ctx)]).toEqual([1, 0]);
    await silence(h.hostId, 13);
    expect(await presence("a")).toBe("offline");
    expect([await watchHosts(engine.ctx), await watchHosts(engine.ctx)]).toEqual([1, 0]);
    // The stream of a host that was told to be gone ends without a second word.
    await closeSession(engine.ctx, h);
    await engine.reopen(h.hostId);
    expect((await events("host.")).map((event) => event.type)).toEqual(["host.suspect", "host.back", "host.offline"]);
    expect((await events("host.suspect"))[0]?.body).toMatchObject({ name: "a", pool: "default", silent_seconds: 20 });
  });

  test("after an outage of ours silence is told only once it could have been heard", async () => {
    const h = await engine.host("a");
    await silence(h.hostId, 6);
    // The first turn ever, and the first one after a gap, know nothing.
    expect(await watchHosts(engine.ctx)).toBe(0);
    await engine.sql(
      `update pulses set at = clock_timestamp() - interval '1 minute', since = clock_timestamp() - interval '1 hour'`,
    );
    expect(await watchHosts(engine.ctx)).toBe(0);
    await listening();
    expect(await watchHosts(engine.ctx)).toBe(1);
  });
});

describe("what people want of a host", () => {
  test("a cordoned host gets nothing new and keeps what it runs; the event says who and why", async () => {
    const h = await engine.host("a");
    await engine.submit();
    const [offer] = await engine.offers(h);
    if (!offer) throw new Error("nothing was offered");
    await engine.accept(h, offer);
    await act("a", "cordon");
    await engine.submit();
    expect(await engine.offers(h)).toEqual([]);
    expect(await engine.finish(h.hostId, offer)).toBe(true);
    expect(await act(h.hostId, "cordon")).toMatchObject({ intent: "cordoned", intentReason: asked.reason });
    await act("a", "uncordon");
    expect((await engine.offers(h)).length).toBeGreaterThan(0);
    const told = await events("host.");
    // The repeated cordon changed nothing and says nothing.
    expect(told.map((event) => event.type)).toEqual(["host.cordoned", "host.opened"]);
    expect(told[0]?.body).toEqual({ name: "a", from: "open", ...asked });
  });

  test("a drain past its deadline gives work back uncounted, and is done once nothing is held", async () => {
    const h = await engine.host("a");
    const id = await engine.submit();
    const [offer] = await engine.offers(h);
    if (!offer) throw new Error("nothing was offered");
    await engine.accept(h, offer);
    await act("a", "drain", 60_000);
    expect(await takeStops(engine.ctx, h)).toEqual([]);
    await watchHosts(engine.ctx);
    expect(await events("host.drained")).toEqual([]);
    await engine.sql(`update hosts set drain_until = clock_timestamp() - interval '1 second'`);
    const rung: string[] = [];
    const quiet = engine.ctx.bus.on(`host:${h.hostId}`, () => void rung.push(h.hostId));
    await watchHosts(engine.ctx);
    await expect.poll(() => rung).toEqual([h.hostId]);
    quiet();
    expect(await takeStops(engine.ctx, h)).toMatchObject([{ attemptId: offer.attemptId, reason: "give_back" }]);
    expect(await engine.finish(h.hostId, offer, { outcome: "interrupted" })).toBe(true);
    expect((await engine.detail(id)).stages[0]).toMatchObject({ state: "ready", tries: 0 });
    expect([await watchHosts(engine.ctx), await watchHosts(engine.ctx)]).toEqual([1, 0]);
    expect((await events("host.drained"))[0]?.body).toEqual({ name: "a" });
    await act("a", "drain");
    // A drain that is asked for again is told again: another person waits for it.
    expect(await watchHosts(engine.ctx)).toBe(1);
    expect((await findHost(engine.ctx.db.direct, "a"))?.drainUntil).toBeNull();
  });

  test("a drain is not done while a placement that saw the host open may still give it something", async () => {
    const h = await engine.host("a");
    await engine.submit();
    let [atCommit, letGo] = [() => {}, () => {}];
    const isAtCommit = new Promise<void>((resolve) => {
      atCommit = resolve;
    });
    const mayGo = new Promise<void>((resolve) => {
      letGo = resolve;
    });
    const held = behindGates(engine.ctx.db, {
      before: async (gate) => {
        if (gate !== "commit") return;
        atCommit();
        await mayGo;
      },
      after: () => {},
      committed: () => {},
    });
    const placing = placeStages({ ...engine.ctx, db: held });
    await isAtCommit;
    await act("a", "drain");
    const watching = watchHosts(engine.ctx);
    await Promise.race([watching, new Promise((resolve) => setTimeout(resolve, 300))]);
    letGo();
    await Promise.all([placing, watching]);
    expect(await events("host.drained")).toEqual([]);
    const [offer] = await engine.offers(h);
    if (!offer) throw new Error("nothing was offered");
    await engine.finish(h.hostId, offer, { outcome: "refused" });
    await watchHosts(engine.ctx);
    expect(await events("host.drained")).toHaveLength(1);
  });

  test("quarantine is left by a release only, and an unknown host is named", async () => {
    await engine.host("a");
    await act("a", "quarantine");
    await expect(act("a", "uncordon")).rejects.toMatchObject({ code: "host_conflict" });
    expect((await act("a", "release")).intent).toBe("open");
    await expect(act("nobody", "cordon")).rejects.toMatchObject({ code: "host_not_found" });
  });
});

describe("revocation", () => {
  test("a revoked host is refused everywhere from the commit on, for good", async () => {
    const h = await engine.host("a");
    await engine.submit();
    const [offer] = await engine.offers(h);
    if (!offer) throw new Error("nothing was offered");
    const serial = `serial-${h.hostId}`;
    const rung: string[] = [];
    engine.ctx.bus.on(`host:${h.hostId}`, () => void rung.push("bell"));
    await act("a", "revoke");
    await expect.poll(() => rung).toEqual(["bell"]);
    expect(refusalOf(await readStanding(engine.ctx.db.direct, serial, h.hostId))).toContain("revoked");
    expect(await recordHealth(engine.ctx, [{ ...h, health: {} }])).toEqual(new Set());
    expect(await engine.accept(h, offer)).toBe(false);
    await expect(checkCertificate(engine.ctx, { hostId: h.hostId, serial })).rejects.toMatchObject({
      code: "certificate_refused",
    });
    await expect(engine.reopen(h.hostId)).rejects.toMatchObject({ code: "certificate_refused" });
    await expect(act("a", "uncordon")).rejects.toMatchObject({ code: "host_conflict" });
    expect(await listHosts(engine.ctx.db.direct)).toEqual([]);
  });

  test("one certificate alone can be revoked; the host goes on with another", async () => {
    const h = await engine.host("a");
    await engine.sql(
      `insert into certificates (serial, host_id, public_key_sha256, pem, expires_at) values ('second', $1, '', '', clock_timestamp() + interval '1 day')`,
      [h.hostId],
    );
    const revoke = (serial: string) => revokeCertificate(engine.ctx, { host: "a", serial, ...asked });
    await revoke(`serial-${h.hostId}`);
    await expect(engine.reopen(h.hostId)).rejects.toMatchObject({ code: "certificate_refused" });
    await checkCertificate(engine.ctx, { hostId: h.hostId, serial: "second" });
    await expect(revoke("third")).rejects.toMatchObject({ code: "not_found" });
    const { certificates } = await viewHost(engine.ctx, "a");
    expect(certificates.filter((c) => c.revokedAt !== null).map((c) => c.serial)).toEqual([`serial-${h.hostId}`]);
  });
});

test("a host is removed once it is away and holds nothing; its name is free and its history stays", async () => {
  const h = await engine.host("a");
  const id = await engine.submit();
  const [offer] = await engine.offers(h);
  if (!offer) throw new Error("nothing was offered");
  await engine.accept(h, offer);
  const remove = () => removeHost(engine.ctx, { host: "a", ...asked });
  await expect(remove()).rejects.toMatchObject({ code: "host_conflict", message: expect.stringContaining("online") });
  await closeSession(engine.ctx, { ...h, saidGoodbye: true });
  await expect(remove()).rejects.toMatchObject({ message: expect.stringContaining("still holds 1 attempts") });
  await engine.finish(h.hostId, offer, { outcome: "interrupted" });
  expect(await countHeld(engine.ctx.db.direct, h.hostId)).toBe(0);
  await remove();
  await expect(remove()).rejects.toMatchObject({ code: "host_not_found" });
  await expect(engine.reopen(h.hostId)).rejects.toMatchObject({ code: "certificate_refused" });
  expect((await engine.detail(id)).hostNames.get(h.hostId)).toMatch(/^a\.removed\./);
  const { token } = await issueJoinToken(engine.ctx, { ttlMs: 60_000, maxUses: 1 });
  const csr = await makeRequest(generateKeyPairSync("ec", { namedCurve: "prime256v1" }).privateKey);
  const anew = await enrolHost(engine.ctx, { token, csr, name: "a", inventory });
  expect(await findHost(engine.ctx.db.direct, "a")).toMatchObject({ id: anew.hostId, intent: "open" });
  expect((await events("host.removed"))[0]?.body).toEqual({ name: "a", ...asked });
});

test("a session with nothing to judge is one statement, one with held work a handful", async () => {
  const h = await engine.host("a");
  const count = async (attempts: Parameters<typeof openSession>[1]["attempts"]) => {
    let sent = 0;
    const { db } = engine.ctx;
    const counting = (tx: Tx): Tx => ({
      query: (sql, params) => {
        sent++;
        return tx.query<never>(sql, params);
      },
    });
    const transaction: typeof db.transaction = (run) =>
      db.transaction((tx) => {
        // Its begin and commit.
        sent += 2;
        return run(counting(tx));
      });
    const ctx = { ...engine.ctx, db: { ...db, direct: counting(db.direct), transaction } };
    const hello = { hostId: h.hostId, serial: `serial-${h.hostId}`, instanceId: "i", agentVersion: "1" };
    const { epoch } = await openSession(ctx, { ...hello, protocolMin: 1, protocolMax: 2, inventory, attempts });
    return { sent, epoch };
  };
  const none = await count([]);
  expect(none.sent).toBe(1);
  const held: { attemptId: string; fence: bigint; state: "running" }[] = [];
  for (let i = 0; i < 3; i++) await engine.submit();
  const offers = await engine.offers({ hostId: h.hostId, epoch: none.epoch });
  for (const offer of offers) {
    await engine.accept({ hostId: h.hostId, epoch: none.epoch }, offer);
    held.push({ attemptId: offer.attemptId, fence: offer.fence, state: "running" });
  }
  expect(held.length).toBe(3);
  // Not more with three than with one: everything is judged together.
  const three = await count(held);
  expect(three.sent).toBeLessThanOrEqual(8);
});
