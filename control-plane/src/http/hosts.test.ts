// The hosts as clients see them and what people do with them, over a real socket with the real operations.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openTestEdge, type TestEdge } from "../testing/http-edge.ts";
import { hostDetailSchema, hostSchema, valveSchema } from "./host-json.ts";
import { problemSchema } from "./problem.ts";

let it: TestEdge;
beforeAll(async () => {
  it = await openTestEdge();
  await it.engine.host("a", { tags: ["rack-7"] });
  await it.engine.host("b");
});
afterAll(() => it.close());

const act = async (name: string, body: unknown = {}) => {
  const answer = await it.post(`/api/v1/hosts/${name}`, body);
  return { status: answer.status, body: (await answer.json()) as Record<string, unknown> };
};
const asked = { reason: "a fan is loud", by: "dana" };

describe("a host", () => {
  test("is found by its name and by its id, with its sessions and certificates", async () => {
    const byName = hostDetailSchema.parse(await (await it.get("/api/v1/hosts/a")).json());
    expect(byName).toMatchObject({ name: "a", intent: "open", reason: "", presence: "online", pool: "default" });
    expect(byName).toMatchObject({ tags: ["rack-7"], drain_until: null });
    expect(byName.silent_seconds).toBeLessThan(60);
    expect(byName.sessions).toMatchObject([{ epoch: 1, instance_id: "i", replica: it.ctx.replica, closed_at: null }]);
    expect(byName.certificates).toMatchObject([{ serial: `serial-${byName.id}`, revoked_at: null }]);
    const byId = hostDetailSchema.parse(await (await it.get(`/api/v1/hosts/${byName.id}`)).json());
    expect(byId.id).toBe(byName.id);
    const none = await it.get("/api/v1/hosts/nobody");
    expect(none.status).toBe(404);
    expect(problemSchema.parse(await none.json())).toMatchObject({
      code: "host_not_found",
      next: expect.stringContaining("host list"),
    });
  });

  test("is cordoned, drained with a deadline, and opened again; each with who and why", async () => {
    expect(await act("a/cordon", asked)).toMatchObject({
      status: 200,
      body: { intent: "cordoned", reason: asked.reason },
    });
    const drained = hostDetailSchema.parse((await act("a/drain", { ...asked, within_seconds: 600 })).body);
    const leftMs = Date.parse(drained.drain_until ?? "") - Date.now();
    expect(leftMs).toBeGreaterThan(540_000);
    expect(leftMs).toBeLessThan(601_000);
    // Without a word about giving back, work may finish.
    expect((await act("a/drain")).body).toMatchObject({ intent: "draining", drain_until: null });
    expect((await act("a/maintenance")).body.intent).toBe("maintenance");
    expect((await act("a/uncordon")).body).toMatchObject({ intent: "open", drain_until: null });
    const told = await it.engine.sql(`select body from events where type = 'host.cordoned'`);
    expect(told).toEqual([{ body: { name: "a", from: "open", ...asked } }]);
  });

  test("takes no contradiction and nothing unknown", async () => {
    const both = await act("a/drain", { policy: "finish", within_seconds: 5 });
    expect(both.status).toBe(422);
    expect(problemSchema.parse(both.body).errors[0]?.pointer).toBe("/within_seconds");
    expect((await act("a/cordon", { why: "x" })).status).toBe(422);
    expect((await act("a/drain", { within_seconds: -1 })).status).toBe(422);
    expect((await act("a/polish")).status).toBe(404);
    expect((await act("a/release")).status).toBe(409);
    expect((await act("a/pool", { pool: "No Pool" })).status).toBe(422);
    expect((await it.get("/api/v1/hosts/a/cordon")).status).toBe(405);
  });

  test("loses one certificate, is revoked, and is removed once it is away", async () => {
    const remove = (query = "") => fetch(`${it.url}/api/v1/hosts/b${query}`, { method: "DELETE" });
    expect((await act("b/revoke", { serial: "none" })).status).toBe(404);
    const { id } = hostDetailSchema.parse(await (await it.get("/api/v1/hosts/b")).json());
    const certificates = hostDetailSchema.parse((await act("b/revoke", { serial: `serial-${id}` })).body).certificates;
    expect(certificates[0]?.revoked_at).not.toBeNull();
    expect((await act("b/revoke", asked)).body).toMatchObject({ intent: "revoked", reason: asked.reason });
    expect((await act("b/uncordon")).body.code).toBe("host_conflict");
    const early = await remove();
    expect(early.status).toBe(409);
    await it.engine.sql(`update hosts set replica = null where name = 'b'`);
    const gone = await remove("?reason=sold&by=dana");
    expect([gone.status, await gone.text()]).toEqual([204, ""]);
    expect((await remove()).status).toBe(404);
    expect(await it.engine.sql(`select body from events where type = 'host.removed'`)).toEqual([
      { body: { name: "b", reason: "sold", by: "dana" } },
    ]);
  });
});

test("a pool whose work is held back is shown with the hosts, and a person can open its valve", async () => {
  expect((await act("a/pool", { pool: "rack-7", ...asked })).body.pool).toBe("rack-7");
  await it.engine.sql(
    `insert into pool_valves (pool, opens_at, reason) values ('rack-7', clock_timestamp() + interval '10 minutes', '3 of 4 hosts are silent')`,
  );
  const list = (await (await it.get("/api/v1/hosts")).json()) as { items: unknown[]; closed_valves: unknown[] };
  expect(hostSchema.parse(list.items[0])).toMatchObject({ name: "a", pool: "rack-7" });
  expect(valveSchema.parse(list.closed_valves[0])).toMatchObject({ pool: "rack-7", reason: "3 of 4 hosts are silent" });
  const open = async (pool: string) => {
    const answer = await it.post(`/api/v1/pools/${pool}/open-valve`, asked);
    return [answer.status, ((await answer.json()) as { opened?: boolean }).opened];
  };
  expect([await open("rack-7"), await open("rack-7"), await open("nowhere")]).toEqual([
    [200, true],
    [200, false],
    [404, undefined],
  ]);
});
