// What a replica finds about its own streams without any bell, on a real database: hosts for which something waits, and sessions that
// are over, each until it was acted on and never those of another replica.
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Engine, openEngine } from "../testing/engine.ts";
import { cancelJob } from "./cancel-job.ts";
import { openSession } from "./open-session.ts";
import { placeStages } from "./place-stages.ts";
import { revokeCertificate } from "./revoke-certificate.ts";
import { setIntent } from "./set-intent.ts";
import { takeOffers } from "./take-offers.ts";
import { refusedSessions, waitingHosts } from "./watch-sessions.ts";

let engine: Engine;
beforeAll(async () => {
  engine = await openEngine();
});
afterAll(() => engine.close());

const elsewhere = () => ({ ...engine.ctx, replica: "other.00000000" });
const refusedOf = async (hostId: string, ctx = engine.ctx) =>
  (await refusedSessions(ctx, { windowMs: 60_000 })).filter((fact) => fact.hostId === hostId);
const by = { reason: "a test", by: "test" };

test("an unsent offer, a cancel and a drain past its time are found by the replica that holds the stream", async () => {
  const host = await engine.host("a");
  expect(await waitingHosts(engine.ctx)).toEqual([]);
  const id = await engine.submit();
  await placeStages(engine.ctx);
  expect(await waitingHosts(engine.ctx)).toEqual([host.hostId]);
  expect(await waitingHosts(elsewhere())).toEqual([]);
  const [offer] = await takeOffers(engine.ctx, host);
  if (!offer) throw new Error("nothing was offered");
  expect(await waitingHosts(engine.ctx)).toEqual([]);
  await engine.accept(host, offer);
  await setIntent(engine.ctx, { host: host.hostId, act: "drain", giveBackAfterMs: 0, ...by });
  expect(await waitingHosts(engine.ctx)).toEqual([host.hostId]);
  await setIntent(engine.ctx, { host: host.hostId, act: "uncordon", ...by });
  expect(await waitingHosts(engine.ctx)).toEqual([]);
  await cancelJob(engine.ctx, id, "a test");
  expect(await waitingHosts(engine.ctx)).toEqual([host.hostId]);
  await engine.finish(host.hostId, offer, { outcome: "cancelled" });
  expect(await waitingHosts(engine.ctx)).toEqual([]);
});

test("a session that was opened at another replica is told here, with its epoch", async () => {
  const { hostId, epoch } = await engine.host("b");
  expect(await refusedOf(hostId)).toEqual([]);
  const request = {
    hostId,
    serial: `serial-${hostId}`,
    instanceId: "i",
    agentVersion: "1",
    protocolMin: 1,
    protocolMax: 2,
    inventory: (await engine.sql<{ inventory: never }>("select inventory from hosts where id = $1", [hostId]))[0]
      ?.inventory as never,
    attempts: [],
  };
  await openSession(elsewhere(), request);
  const moved = { hostId, epoch: epoch + 1n, serial: null, why: "moved" };
  expect(await refusedOf(hostId)).toEqual([moved]);
  // The replica that holds the stream now hears at most of older sessions, which do not concern it.
  for (const { epoch: told } of await refusedOf(hostId, elsewhere())) expect(told).toBeLessThan(epoch + 1n);
});

test("a revoked host, a copied one, a revoked certificate and one whose successor is in use are told by name", async () => {
  const { hostId: revoked } = await engine.host("c");
  await setIntent(engine.ctx, { host: revoked, act: "revoke", ...by });
  expect(await refusedOf(revoked)).toContainEqual({ hostId: revoked, epoch: null, serial: null, why: "revoked" });

  const { hostId: copied } = await engine.host("d");
  await engine.sql("update hosts set copied_at = clock_timestamp() where id = $1", [copied]);
  expect(await refusedOf(copied)).toEqual([{ hostId: copied, epoch: null, serial: null, why: "copied" }]);

  const { hostId } = await engine.host("e");
  const serial = `serial-${hostId}`;
  await engine.sql(
    `insert into certificates (serial, host_id, public_key_sha256, pem, expires_at) values ('next', $1, '', '', clock_timestamp() + interval '1 day')`,
    [hostId],
  );
  await engine.sql(
    `update certificates set superseded_at = clock_timestamp() - interval '601 seconds' where serial = $1`,
    [serial],
  );
  expect(await refusedOf(hostId)).toEqual([]);
  await engine.sql(`update certificates set first_used_at = clock_timestamp() where serial = 'next'`);
  expect(await refusedOf(hostId)).toEqual([{ hostId, epoch: null, serial, why: "replaced" }]);
  await revokeCertificate(engine.ctx, { host: hostId, serial: "next", ...by });
  expect(await refusedOf(hostId)).toContainEqual({ hostId, epoch: null, serial: "next", why: "revoked" });
});

test("neither look reads the hosts: every table is entered through the few rows that matter", async () => {
  await engine.sql(
    `insert into hosts (id, name, inventory, replica, epoch)
    select 'h_' || lpad(n::text, 26, '0'), 'n' || n, '{}', $1, 1 from generate_series(1, 20000) n`,
    [engine.ctx.replica],
  );
  await engine.sql(`insert into host_sessions (host_id, epoch, instance_id, replica, opened_at)
    select id, 1, 'i', replica, clock_timestamp() - interval '1 day' from hosts where epoch = 1 and name ~ '^n[0-9]'`);
  await engine.sql(`insert into certificates (serial, host_id, public_key_sha256, pem, expires_at)
    select 's' || id, id, '', '', clock_timestamp() + interval '1 day' from hosts where name ~ '^n[0-9]'`);
  await engine.submit();
  await engine.sql(`insert into stages (job_id, position, name, kind, state, spec, open_needs, estimated_micros, rank, user_id, pipeline)
    select job_id, 100 + n, 'x' || n, kind, 'running', spec, 0, 0, rank, user_id, pipeline
    from (select * from stages order by id desc limit 1) s, generate_series(1, 20000) n`);
  await engine.sql(`insert into attempts (id, stage_id, job_id, host_id, number, fence, state, allocation, hold_micros, lease_until)
    select 'a_' || lpad(id::text, 26, '0'), id, job_id, 'h_' || lpad((position - 100)::text, 26, '0'), 1, nextval('fences'), 'running',
      '{}', 0, clock_timestamp() + interval '30 seconds' from stages where position > 100`);
  await engine.sql("analyze");
  const plans: string[] = [];
  const explained = {
    ...engine.ctx,
    db: {
      ...engine.ctx.db,
      direct: {
        query: async (text: string, params: readonly unknown[] = []) => {
          const { rows } = await engine.ctx.db.direct.query<{ "QUERY PLAN": string }>(`explain ${text}`, params);
          plans.push(rows.map((row) => row["QUERY PLAN"]).join("\n"));
          return { rows: [], rowCount: 0 };
        },
      },
    },
  };
  await waitingHosts(explained);
  await refusedSessions(explained, { windowMs: 60_000 });
  expect(plans).toHaveLength(2);
  for (const plan of plans) expect(plan).not.toMatch(/Seq Scan on (hosts|host_sessions|certificates|attempts|stages)/);
  expect(plans[0]).toMatch(/Index Cond: .*lease_until|Index Scan using attempts_offered/);
  expect(plans[1]).toMatch(/Index Cond: .*opened_at/);
});
