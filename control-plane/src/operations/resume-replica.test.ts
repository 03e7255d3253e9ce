// Rows of replicas on a real database: who is gone, what is cleared then, and when countdowns begin again.
import { afterEach, beforeEach, expect, test } from "vitest";
import { createReplica } from "../loops/replica.ts";
import type { Database } from "../store/database.ts";
import { connectPostgres } from "../store/postgres.ts";
import { applicationName, beatReplica, otherReplicas, type ReplicaSelf } from "../store/replicas.ts";
import { type Engine, openEngine } from "../testing/engine.ts";
import type { Context } from "./context.ts";
import { takeLead } from "./lead.ts";
import { resumeReplica } from "./resume-replica.ts";
import { leaveReplica, watchReplicas } from "./watch-replicas.ts";

let engine: Engine;
const pools: Database[] = [];
beforeEach(async () => {
  engine = await openEngine();
});
afterEach(async () => {
  await Promise.all(pools.splice(0).map((pool) => pool.stop()));
  await engine.close();
});

const selfOf = (id: string): ReplicaSelf => ({
  id,
  name: id.slice(0, -9),
  version: "1",
  agentAddress: `${id.slice(0, -9)}:7443`,
  httpAddress: "",
});
const as = (id: string): Context => ({ ...engine.ctx, replica: id });
/** A connection such as a living process of that id has. */
const connect = async (id: string): Promise<Database> => {
  const [row] = await engine.sql<{ database: string; dir: string }>(
    "select current_database() as database, current_setting('unix_socket_directories') as dir",
  );
  const db = connectPostgres({
    socketDir: row?.dir ?? "",
    user: "renderplane",
    database: row?.database ?? "",
    applicationName: applicationName(id),
    poolMax: 1,
  });
  await db.start();
  pools.push(db);
  return db;
};
/** A host whose stream this process holds. */
const hostAt = async (replica: string, name = "a1") => {
  const host = await engine.host(name);
  await engine.sql("update hosts set replica = $2 where id = $1", [host.hostId, replica]);
  await engine.sql(
    `insert into host_sessions (host_id, epoch, instance_id, replica) values ($1, $2, 'i', $3)
     on conflict (host_id, epoch) do update set replica = excluded.replica`,
    [host.hostId, host.epoch, replica],
  );
  return host;
};
const replicaOf = async (hostId: string) =>
  (await engine.sql<{ replica: string | null }>("select replica from hosts where id = $1", [hostId]))[0]?.replica;
const silence = (id: string) =>
  engine.sql("update replicas set last_seen_at = clock_timestamp() - interval '1 hour' where id = $1", [id]);

test("a former process of this name that is gone is cleared at once: sessions, leads and its row", async () => {
  const former = as("main.00000001");
  await beatReplica(engine.ctx.db.direct, selfOf(former.replica));
  await takeLead(former, "placer");
  const host = await hostAt(former.replica);
  const self = as("main.00000002");
  expect((await resumeReplica(self, selfOf(self.replica))).others).toEqual([]);
  expect(await replicaOf(host.hostId)).toBeNull();
  expect(await engine.sql("select 1 from host_sessions where closed_at is null")).toEqual([]);
  expect(await engine.sql("select host_id from events where type = 'host.offline'")).toEqual([
    { host_id: host.hostId },
  ]);
  expect(await engine.sql("select id from replicas")).toEqual([{ id: self.replica }]);
  expect((await takeLead(self, "placer")).isMine).toBe(true);
});

test("a living process of this name keeps everything, and a person is told once a minute", async () => {
  const twin = as("main.00000001");
  await connect(twin.replica);
  await beatReplica(engine.ctx.db.direct, selfOf(twin.replica));
  await takeLead(twin, "placer");
  const host = await hostAt(twin.replica);
  const said: string[] = [];
  const self: Context = {
    ...as("main.00000002"),
    log: Object.assign(Object.create(engine.ctx.log), {
      error: (_facts: object, message: string) => said.push(message),
    }),
  };
  expect((await resumeReplica(self, selfOf(self.replica))).others.map((row) => row.id)).toEqual([twin.replica]);
  expect(await replicaOf(host.hostId)).toBe(twin.replica);
  expect((await takeLead(self, "placer")).isMine).toBe(false);
  const replica = createReplica(self, { self: () => selfOf(self.replica), isAlone: true, onForgotten: () => {} });
  for (let turn = 0; turn < 3; turn++) await replica.runOnce();
  expect(said.filter((line) => line.includes("same name"))).toHaveLength(1);
  expect(said.filter((line) => line.includes("without Redis"))).toHaveLength(1);
  expect(replica.agentAddresses()).toEqual(["main:7443", "main:7443"]);
  await replica.stop();
  expect(await engine.sql("select id from replicas")).toEqual([{ id: twin.replica }]);
});

test("running leases begin their countdown again only when no other replica could have heard a renewal", async () => {
  await engine.submit();
  const host = await engine.host("a1");
  const [offer] = await engine.offers(host);
  if (!offer) throw new Error("no offer");
  await engine.accept(host, offer);
  const left = async () =>
    (
      await engine.sql<{ ms: number }>(
        "select (extract(epoch from lease_until - clock_timestamp()) * 1000)::float8 as ms from attempts",
      )
    )[0]?.ms ?? 0;
  const shorten = () => engine.sql("update attempts set lease_until = clock_timestamp() + interval '1 second'");
  await beatReplica(engine.ctx.db.direct, selfOf("other.00000001"));
  await shorten();
  await resumeReplica(as("main.00000002"), selfOf("main.00000002"));
  expect(await left()).toBeLessThan(1_001);
  await silence("other.00000001");
  await engine.sql("delete from replicas where name = 'main'");
  await resumeReplica(as("main.00000003"), selfOf("main.00000003"));
  expect(await left()).toBeGreaterThan(20_000);
});

test("a silent replica is removed with its sessions, one that beats is not, and what has no row at all counts as gone", async () => {
  const [silent, alive] = ["b.00000001", "c.00000001"];
  for (const id of [silent, alive]) await beatReplica(engine.ctx.db.direct, selfOf(id));
  const [lost, kept, orphan] = [await hostAt(silent, "a1"), await hostAt(alive, "a2"), await hostAt("d", "a3")];
  await silence(silent);
  expect(await watchReplicas(engine.ctx)).toBe(1);
  expect(await replicaOf(lost.hostId)).toBeNull();
  expect(await replicaOf(orphan.hostId)).toBeNull();
  expect(await replicaOf(kept.hostId)).toBe(alive);
  expect((await otherReplicas(engine.ctx.db.direct, "")).map((row) => row.id)).toEqual([alive]);
  expect(await watchReplicas(engine.ctx)).toBe(0);
  expect(await engine.sql("select host_id from events where type = 'host.offline' order by host_id")).toEqual(
    [lost, orphan].map(({ hostId }) => ({ host_id: hostId })).sort((x, y) => (x.host_id < y.host_id ? -1 : 1)),
  );
});

test("a replica that was taken for gone asks its hosts to come back, and one that stops leaves nothing behind", async () => {
  const self = as("main.00000001");
  await resumeReplica(self, selfOf(self.replica));
  let forgotten = 0;
  const replica = createReplica(self, {
    self: () => selfOf(self.replica),
    isAlone: false,
    onForgotten: () => {
      forgotten += 1;
    },
  });
  await replica.runOnce();
  expect(forgotten).toBe(0);
  await silence(self.replica);
  await watchReplicas(engine.ctx);
  await replica.runOnce();
  expect(forgotten).toBe(1);
  const host = await hostAt(self.replica);
  await leaveReplica(self);
  expect(await replicaOf(host.hostId)).toBeNull();
  expect(await engine.sql("select id from replicas")).toEqual([]);
});
