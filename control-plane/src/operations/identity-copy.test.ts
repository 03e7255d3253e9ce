// Copied identities, with real sessions on a real database: two agents that take turns, a certificate that is shown after it was
// replaced, and the honest agents that must not be taken for either.
import { generateKeyPairSync } from "node:crypto";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { makeRequest } from "../identity/testing.ts";
import { type Engine, inventory, openEngine } from "../testing/engine.ts";
import { checkCertificate } from "./check-certificate.ts";
import { openSession } from "./open-session.ts";
import { renewCertificate } from "./renew-certificate.ts";
import { recordHealth } from "./renew-leases.ts";
import { setIntent } from "./set-intent.ts";

let engine: Engine;
let h: { hostId: string; epoch: bigint };
beforeEach(async () => {
  engine = await openEngine();
  h = await engine.host("a");
});
afterEach(() => engine.close());

const hello = (instanceId: string, serial = `serial-${h.hostId}`) =>
  openSession(engine.ctx, {
    hostId: h.hostId,
    serial,
    instanceId,
    agentVersion: "1",
    protocolMin: 1,
    protocolMax: 2,
    inventory,
    attempts: [],
  });
const newRequest = () => makeRequest(generateKeyPairSync("ec", { namedCurve: "prime256v1" }).privateKey);
const refused = { code: "certificate_refused" };
const state = async () =>
  (
    await engine.sql<{ intent: string; reason: string; replica: string | null }>(
      `select intent, intent_reason as reason, replica from hosts where id = $1`,
      [h.hostId],
    )
  )[0];
const copies = () =>
  engine.sql<{ body: { rule: string } }>(`select body from events where type = 'host.identity_copied'`);

describe("two agents with one identity", () => {
  test("that take turns are both refused, and the host is quarantined until a person releases it", async () => {
    for (const instance of ["one", "two", "one", "two"]) await hello(instance);
    const { epoch } = (await engine.sql<{ epoch: bigint }>(`select epoch from hosts`))[0] as { epoch: bigint };
    const rung: string[] = [];
    engine.ctx.bus.on(`host:${h.hostId}`, () => void rung.push("bell"));
    await expect(hello("one")).rejects.toMatchObject({ ...refused, message: expect.stringContaining("two agents") });
    expect(await state()).toMatchObject({ intent: "quarantined", replica: null });
    expect((await copies()).map((event) => event.body.rule)).toEqual(["instances_take_turns"]);
    await expect.poll(() => rung).toEqual(["bell"]);
    // The stream that is still open is heard no more, and neither comes back.
    expect(await recordHealth(engine.ctx, [{ hostId: h.hostId, epoch, health: {} }])).toEqual(new Set());
    expect(await recordHealth(engine.ctx, [{ hostId: h.hostId, epoch: epoch + 1n, health: {} }])).toEqual(new Set());
    await expect(hello("two")).rejects.toMatchObject(refused);
    await expect(
      checkCertificate(engine.ctx, { hostId: h.hostId, serial: `serial-${h.hostId}` }),
    ).rejects.toMatchObject(refused);
    expect(await copies()).toHaveLength(1);
    await engine.sql(`update host_sessions set opened_at = opened_at - interval '2 minutes'`);
    await setIntent(engine.ctx, { host: "a", act: "release", reason: "the copy is deleted", by: "dana" });
    await hello("one");
  });

  test("are told from an agent that crashes again and again, and from turns that lie far apart", async () => {
    for (let start = 0; start < 12; start++) await hello(`start ${start}`);
    for (let turn = 0; turn < 5; turn++) {
      await engine.sql(`update host_sessions set opened_at = opened_at - interval '40 seconds'`);
      await hello("one");
      await hello("two");
    }
    expect((await state())?.intent).toBe("open");
    // Three beats of one agent that reconnects with every network trouble are no turns either.
    for (let again = 0; again < 6; again++) await hello("two");
    expect((await state())?.intent).toBe("open");
  });
});

describe("a certificate that was replaced", () => {
  const renewed = async (serial: string): Promise<string> => {
    await renewCertificate(engine.ctx, { hostId: h.hostId, serial, csr: await newRequest() });
    const rows = await engine.sql<{ serial: string }>(
      `select serial from certificates order by issued_at desc limit 1`,
    );
    return rows[0]?.serial ?? "";
  };
  const later = (minutes: number) =>
    engine.sql(
      `update certificates set superseded_at = superseded_at - make_interval(mins => $1), first_used_at = first_used_at - make_interval(mins => $1)`,
      [minutes],
    );

  test("is good for ten minutes; shown after its successor was used, it quarantines the host", async () => {
    const old = `serial-${h.hostId}`;
    const fresh = await renewed(old);
    await hello("one", fresh);
    await later(9);
    await checkCertificate(engine.ctx, { hostId: h.hostId, serial: old });
    await later(2);
    await checkCertificate(engine.ctx, { hostId: h.hostId, serial: fresh });
    await expect(checkCertificate(engine.ctx, { hostId: h.hostId, serial: old })).rejects.toMatchObject({
      ...refused,
      message: expect.stringContaining("copied"),
    });
    expect((await copies()).map((event) => event.body.rule)).toEqual(["superseded_certificate"]);
    expect((await state())?.intent).toBe("quarantined");
    await expect(hello("one", fresh)).rejects.toMatchObject(refused);
  });

  test("opens no session and renews nothing once it counts as a copy", async () => {
    const old = `serial-${h.hostId}`;
    await hello("one", await renewed(old));
    await later(11);
    await expect(hello("two", old)).rejects.toMatchObject(refused);
    expect(await copies()).toHaveLength(1);
    await expect(renewed(old)).rejects.toMatchObject(refused);
    expect(await engine.sql(`select 1 from certificates where host_id = $1`, [h.hostId])).toHaveLength(2);
  });

  test("stays good for as long as its successor was never used: the answer may have been lost", async () => {
    const old = `serial-${h.hostId}`;
    await renewed(old);
    await later(600);
    await hello("one", old);
    const second = await renewed(old);
    await later(600);
    await checkCertificate(engine.ctx, { hostId: h.hostId, serial: old });
    await hello("one", second);
    await later(11);
    expect((await state())?.intent).toBe("open");
    await expect(hello("two", old)).rejects.toMatchObject(refused);
  });
});
