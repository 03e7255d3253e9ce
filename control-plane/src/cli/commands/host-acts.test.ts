// renderplane host …: what each command sends, what it prints, and how a drain is waited for, against a server that answers by a table.
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type FakeServer, runCli, startFakeServer } from "../testing.ts";

let server: FakeServer;
beforeEach(async () => {
  server = await startFakeServer();
});
afterEach(() => server.close());

const run = (...argv: string[]) =>
  runCli(["host", ...argv], { env: { RENDERPLANE_SERVER: server.url, USER: "dana", NO_COLOR: "1" } });
const attempt = { attempt_id: "a_1", job_id: "v_1", stage: "render" };
const host = (change: object = {}) => ({
  id: "h_1",
  name: "gpu-01",
  intent: "open",
  reason: "",
  drain_until: null,
  presence: "online",
  silent_seconds: 1,
  grade: "good",
  pool: "default",
  tags: ["rack-7"],
  agent_version: "1.2.3",
  last_seen_at: null,
  ffmpeg_version: "5.1.9",
  attempts: [],
  sessions: [],
  certificates: [],
  ...change,
});
const answers = (route: string, change: object = {}) => server.answer(route, { status: 200, body: host(change) });
const sent = () => JSON.parse(server.requests.at(-1)?.body ?? "null") as Record<string, unknown>;
const by = expect.stringMatching(/^dana@/);

describe("acts", () => {
  test("name the host, say who and why, and print what it is now", async () => {
    for (const [act, intent] of [
      ["cordon", "cordoned"],
      ["uncordon", "open"],
      ["maintenance", "maintenance"],
      ["quarantine", "quarantined"],
      ["release", "open"],
    ] as const) {
      answers(`POST /api/v1/hosts/gpu-01/${act}`, { intent });
      const end = await run(act, "gpu-01", "--reason", "a fan is loud");
      expect(end).toMatchObject({ exitCode: 0, stdout: `gpu-01 is ${intent}, online, holds nothing.\n` });
      expect(sent()).toEqual({ by, reason: "a fan is loud" });
    }
  });

  test("revoke takes a host or one certificate, remove and pool and open-valve their own paths", async () => {
    answers("POST /api/v1/hosts/gpu-01/revoke", { intent: "revoked", presence: "offline" });
    await run("revoke", "gpu-01");
    expect(sent()).toEqual({ by });
    await run("revoke", "gpu-01", "--certificate", "0a1b");
    expect(sent()).toEqual({ by, serial: "0a1b" });
    answers("POST /api/v1/hosts/gpu-01/pool", { pool: "rack-7" });
    await run("pool", "gpu-01", "rack-7");
    expect(sent()).toEqual({ by, pool: "rack-7" });
    server.answer("DELETE /api/v1/hosts/gpu-01", (_, response) => response.writeHead(204).end());
    expect((await run("remove", "gpu-01", "--reason", "sold")).stdout).toContain("its name is free");
    expect(server.requests.at(-1)?.query).toMatch(/by=dana%40.*&reason=sold/);
    server.answer("POST /api/v1/pools/default/open-valve", { status: 200, body: { pool: "default", opened: true } });
    expect((await run("open-valve")).stdout).toContain("The valve of pool default is open");
  });

  test("a refusal keeps the server's words and the exit code of a conflict", async () => {
    const body = { code: "host_conflict", detail: "host gpu-01 is quarantined; release it first" };
    server.answer("POST /api/v1/hosts/gpu-01/cordon", { status: 409, body });
    expect(await run("cordon", "gpu-01")).toMatchObject({
      exitCode: 5,
      stderr: expect.stringContaining("release it first"),
    });
  });
});

describe("drain", () => {
  test.each([
    [[], { policy: "finish" }],
    [["--within", "10m"], { policy: "give_back", within_seconds: 600 }],
    [["--give-back"], { policy: "give_back", within_seconds: 0 }],
  ])("%j asks for %j", async (options, body) => {
    answers("POST /api/v1/hosts/gpu-01/drain", { intent: "draining", attempts: [attempt] });
    expect((await run("drain", "gpu-01", ...options)).stdout).toContain("is draining, online, holds 1 attempts");
    expect(sent()).toEqual({ by, ...body });
  });

  test("--wait ends when nothing is held, and says so when its time is up or somebody ended the drain", async () => {
    answers("POST /api/v1/hosts/gpu-01/drain", { intent: "draining", attempts: [attempt] });
    let looks = 0;
    server.answer("GET /api/v1/hosts/h_1", (_, response) => {
      looks++;
      response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(host({ intent: "draining" })));
    });
    const end = await run("drain", "gpu-01", "--wait");
    expect(end).toMatchObject({ exitCode: 0, stdout: "gpu-01 holds nothing any more.\n" });
    expect(looks).toBe(1);
    expect(end.stderr).toContain("gpu-01 still holds 1 attempts.");
    answers("GET /api/v1/hosts/h_1", { intent: "draining", attempts: [attempt] });
    expect((await run("drain", "gpu-01", "--wait", "--timeout", "10ms")).exitCode).toBe(6);
    answers("GET /api/v1/hosts/h_1", { intent: "open", attempts: [attempt] });
    expect(await run("drain", "gpu-01", "--wait")).toMatchObject({
      exitCode: 5,
      stderr: expect.stringContaining("ended"),
    });
    expect((await run("drain", "gpu-01", "--within", "soon")).exitCode).toBe(2);
  });
});

test("view shows what an operator asks for first", async () => {
  answers("GET /api/v1/hosts/gpu-01", {
    intent: "cordoned",
    reason: "a fan is loud",
    attempts: [attempt],
    sessions: [{ epoch: 3, instance_id: "i", replica: "main.1", opened_at: "2026-11-22T10:00:00Z", closed_at: null }],
    certificates: [{ serial: "0a1b", expires_at: "2026-11-25T10:00:00Z", superseded_at: null, revoked_at: null }],
  });
  const { stdout } = await run("view", "gpu-01");
  expect(stdout).toMatch(/intent +cordoned: a fan is loud/);
  expect(stdout).toMatch(/running +render of v_1/);
  expect(stdout).toMatch(/3 +2026-11-22T10:00:00Z +open +i +main\.1/);
  expect(stdout).toMatch(/0a1b +2026-11-25T10:00:00Z +in use/);
});
