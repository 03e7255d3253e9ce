// The command line against a real HTTP server with the shapes of the interface: what is printed where, and every exit code.
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { separateJson } from "./program.ts";
import { type FakeServer, jobJson, runCli, startFakeServer } from "./testing.ts";

const accepted = { id: "v_01KX0000000000000000000000", position: 3, estimated_cost: 2.5, estimated_seconds: 420 };
const job = "/api/v1/jobs/v_01KX0000000000000000000000";

let server: FakeServer;
let folder: string;
const run = (...argv: string[]) => runCli(argv, { env: { RENDERPLANE_SERVER: server.url } });

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "renderplane-cli-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));
beforeEach(async () => {
  server = await startFakeServer();
});
afterEach(() => server.close());

describe("exit codes", () => {
  test.each([
    [400, "malformed_body", 2],
    [422, "invalid_request", 2],
    [422, "media_refused", 2],
    [413, "body_too_large", 2],
    [404, "job_not_found", 3],
    [401, "", 4],
    [403, "forbidden", 4],
    [409, "job_is_final", 5],
    [412, "", 5],
    [422, "idempotency_conflict", 5],
    [429, "queue_full", 11],
    [503, "unavailable", 9],
    [500, "internal", 1],
    [507, "storage_full", 1],
  ])("a %i %s problem is exit %s", async (status, code, exitCode) => {
    server.answer(`GET ${job}`, {
      status,
      body: { code, detail: "What went wrong.", next: "Do this.", trace_id: "t-1" },
    });
    const end = await run("view", accepted.id);
    expect(end.exitCode).toBe(exitCode);
    expect(end.stdout).toBe("");
    expect(end.stderr).toBe("What went wrong.\nTry: Do this.\ntrace: t-1\n");
  });

  test("wrong usage is 2, with a suggestion for a mistyped command", async () => {
    expect((await run("view")).exitCode).toBe(2);
    const end = await run("lis");
    expect(end.exitCode).toBe(2);
    expect(end.stderr).toContain("Did you mean list?");
    expect((await run("list", "--limit", "many")).exitCode).toBe(2);
    expect((await run("--help")).exitCode).toBe(0);
  });

  test("a server that is not there is 9 and says how to start it", async () => {
    await server.close();
    const end = await run("list");
    expect(end.exitCode).toBe(9);
    expect(end.stderr).toContain("cannot be reached (ECONNREFUSED)");
    expect(end.stderr).toContain("./scripts/quickstart");
  });

  test("an answer that is not JSON is 1", async () => {
    server.answer("GET /api/v1/jobs", (_, response) => void response.end("<html>"));
    expect((await run("list")).exitCode).toBe(1);
  });

  test.each([
    ["completed", null, 0],
    ["failed", { class: "input_corrupt", message: "a.mp4 cannot be read" }, 7],
    ["cancelled", null, 7],
    ["failed", { class: "cost_limit", message: "the limit of $3.00 was reached" }, 10],
  ] as const)("watching a job that is %s (%o) is exit %i", async (state, failure, exitCode) => {
    server.answer(`GET ${job}`, { status: 200, body: jobJson({ state, failure }) });
    const end = await run("watch", accepted.id);
    expect(end.exitCode).toBe(exitCode);
    expect(end.stdout).toMatch(new RegExp(`^${accepted.id}  ${state}  1 m 01 s  \\$0\\.004200  http`));
    if (failure) expect(end.stderr).toContain(failure.message);
  });

  test("a wait that takes too long is 6, and the job goes on", async () => {
    server.answer(`GET ${job}`, { status: 200, body: jobJson() });
    const end = await run("watch", accepted.id, "--timeout", "200ms");
    expect(end.exitCode).toBe(6);
    expect(end.stderr).toContain("keeps running");
    expect((await run("watch", accepted.id, "--timeout", "soon")).exitCode).toBe(2);
  });

  test.each([
    ["SIGINT", 130],
    ["SIGTERM", 143],
  ])("%s while waiting detaches with %i", async (signal, exitCode) => {
    const abort = new AbortController();
    server.answer(`GET ${job}`, (_, response) => {
      response.end(JSON.stringify(jobJson()));
      setImmediate(() => abort.abort(signal));
    });
    const end = await runCli(["watch", accepted.id, "--server", server.url], { signal: abort.signal });
    expect(end.exitCode).toBe(exitCode);
    expect(end.stderr).toContain(`Detached; the job keeps running.\nTry: renderplane watch ${accepted.id}`);
  });
});

describe("submit", () => {
  test("sends the file with an Idempotency-Key, prints the id and the next line", async () => {
    server.answer("POST /api/v1/jobs", { status: 201, body: accepted });
    const file = join(folder, "job.json");
    await writeFile(file, JSON.stringify({ pipeline: "narrated-video", user_id: "u", request: { script: "Hello." } }));
    const end = await run("submit", file, "--priority", "7", "-f", "captions=false", "-f", "channel_id=news");
    expect(end).toEqual({
      exitCode: 0,
      stdout: `${accepted.id}\n`,
      stderr: `✓ Accepted ${accepted.id}: place 3 in the queue, about 7 m 00 s, est. $2.50\nNext: renderplane watch ${accepted.id}\n`,
    });
    expect(JSON.parse(server.requests[0]?.body ?? "")).toEqual({
      pipeline: "narrated-video",
      user_id: "u",
      channel_id: "news",
      priority: 7,
      request: { script: "Hello.", captions: false },
    });
    expect(server.requests[0]?.headers["idempotency-key"]).toMatch(/^"[0-9a-f-]{36}"$/);
  });

  test("keeps text that looks like nothing else as text, and reads =@FILE", async () => {
    server.answer("POST /api/v1/jobs", { status: 201, body: accepted });
    const script = join(folder, "script.txt");
    await writeFile(script, 'It\'s 100 % "fine": yes.\n');
    await run("job", "submit", "-f", `script=@${script}`, "-f", "title=3 facts", "-f", 'keywords=["sea"]', "-p", "x");
    expect(JSON.parse(server.requests[0]?.body ?? "").request).toEqual({
      script: 'It\'s 100 % "fine": yes.\n',
      title: "3 facts",
      keywords: ["sea"],
    });
  });

  test("reads the job from stdin and sends media as a form, the job first", async () => {
    server.answer("POST /api/v1/jobs", { status: 201, body: accepted });
    const clip = join(folder, "a b.mp4");
    await writeFile(clip, "not really a film");
    const stdin = JSON.stringify({ pipeline: "transcode", request: {} });
    const end = await runCli(["submit", "-", "--media", clip, "--server", server.url], { stdin });
    expect(end.exitCode).toBe(0);
    const { body = "", headers } = server.requests[0] ?? {};
    expect(headers?.["content-type"]).toMatch(/^multipart\/form-data/);
    expect(body.indexOf('name="job"')).toBeGreaterThan(0);
    expect(body.indexOf('name="job"')).toBeLessThan(body.indexOf('filename="a b.mp4"'));
    expect(body).toContain("not really a film");
  });

  test("--wait follows the job and exits by it", async () => {
    server.answer("POST /api/v1/jobs", { status: 201, body: accepted });
    server.answer(`GET ${job}`, { status: 200, body: jobJson({ state: "completed" }) });
    const end = await run("submit", "-f", "script=Hi", "--wait");
    expect(end.exitCode).toBe(0);
    expect(end.stdout).toMatch(/^v_01KX\S+ {2}completed/);
  });

  test.each([
    [["submit"], "Nothing to submit"],
    [["submit", "/nowhere/job.json"], "/nowhere/job.json cannot be read (ENOENT)"],
    [["submit", "-f", "novalue"], "-f needs key=value"],
    [["submit", "-f", "script=x", "--wait", "--timeout", "soon"], "--timeout: a duration is a number"],
    [["submit", "-f", "script=x", "--media", "/nowhere/film.mp4"], "there is no file /nowhere/film.mp4"],
  ])("%j is refused here, before the server is asked", async (argv, message) => {
    const end = await run(...argv);
    expect(end.exitCode).toBe(2);
    expect(end.stderr).toContain(message);
    expect(server.requests).toEqual([]);
  });

  test("a refusal names each wrong field", async () => {
    const errors = [{ pointer: "/request/script", detail: "must not be empty" }];
    server.answer("POST /api/v1/jobs", {
      status: 422,
      body: { code: "invalid_request", detail: "The request is not valid.", errors },
    });
    const end = await run("submit", "-f", "script=");
    expect(end.exitCode).toBe(2);
    expect(end.stderr).toBe("The request is not valid.\n  /request/script: must not be empty\n");
  });
});

describe("reading", () => {
  test("list is a table, a hint when empty, and JSON with chosen fields", async () => {
    server.answer("GET /api/v1/jobs", { status: 200, body: { items: [jobJson()], next_cursor: null } });
    expect((await run("list")).stdout).toMatch(/^ID +STATE[\s\S]+v_01KX\S+ +processing .+Rendering 43 %/);
    const end = await run("list", "--state", "failed", "--limit", "5", "--json", "id,state");
    expect(JSON.parse(end.stdout)).toEqual([{ id: accepted.id, state: "processing" }]);
    expect(server.requests.at(-1)?.query).toBe("?limit=5&state=failed");
    server.answer("GET /api/v1/jobs", { status: 200, body: { items: [], next_cursor: null } });
    expect(await run("list")).toEqual({
      exitCode: 0,
      stdout: "",
      stderr: "No jobs yet. Try: renderplane submit FILE\n",
    });
  });

  test("view shows stages and costs; --json before the id is not read as a field", async () => {
    server.answer(`GET ${job}`, { status: 200, body: jobJson() });
    const text = (await run("view", accepted.id)).stdout;
    expect(text).toContain("processing (Rendering 43 % (about 2 min left))");
    expect(text).toMatch(/video_rendering +running/);
    expect(text).toMatch(/cpu_compute +host +\$0\.004200/);
    expect(JSON.parse((await run("view", "--json", accepted.id)).stdout)).toEqual(jobJson());
  });

  test("explain gives a reason for every host", async () => {
    const hosts = [{ host_id: "h_1", host: "gpu-01", verdict: "refused", rule: "cores", reason: "needs 4, 1 free" }];
    const stages = [{ stage: "video_rendering", state: "ready", since: null, reason: "no host fits", hosts }];
    server.answer(`GET ${job}/explain`, {
      status: 200,
      body: { job_id: accepted.id, state: "queued", summary: "Waiting: no host can take it now.", stages },
    });
    const { stdout } = await run("explain", accepted.id);
    expect(stdout).toContain("Waiting: no host can take it now.\nvideo_rendering: ready, no host fits\n");
    expect(stdout).toMatch(/gpu-01 +refused +needs 4, 1 free/);
  });

  test("cancel goes through all ids and exits by the first that could not be cancelled", async () => {
    server.answer("POST /api/v1/jobs/a/cancel", { status: 202, body: {} });
    server.answer("POST /api/v1/jobs/b/cancel", {
      status: 409,
      body: { code: "job_is_final", detail: "It has ended." },
    });
    server.answer("POST /api/v1/jobs/c/cancel", { status: 202, body: {} });
    const end = await run("cancel", "a", "b", "c", "--reason", "wrong script");
    expect(end.exitCode).toBe(5);
    expect(end.stdout).toBe("a\nc\n");
    expect(end.stderr).toContain("✗ b: It has ended.");
    expect(JSON.parse(server.requests[0]?.body ?? "")).toEqual({ reason: "wrong script" });
  });

  test("host list and enroll-command", async () => {
    const room = { cores: 2, memory_bytes: 8 * 1024 ** 3, scratch_bytes: 1, gpus: [] };
    const host = { id: "h_1", name: "cpu-01", intent: "open", presence: "online", grade: "good", agent_version: "1" };
    const more = {
      last_seen_at: null,
      attempts: [],
      ffmpeg_version: "5.1.9",
      encoders: [],
      capacity: room,
      free: room,
    };
    server.answer("GET /api/v1/hosts", { status: 200, body: { items: [{ ...host, ...more }] } });
    expect((await run("host", "list")).stdout).toMatch(
      /cpu-01 +online +open +good +2\/2 +8\.0\/8\.0 GiB +0 +0 +5\.1\.9 +never/,
    );
    server.answer("POST /api/v1/enrollments", {
      status: 201,
      body: {
        token: "rpj1.a",
        expires_at: "2026-11-22T10:00:00Z",
        command: "RENDERPLANE_JOIN_TOKEN=rpj1.a npm run agent",
      },
    });
    const end = await run("host", "enroll-command", "--ttl", "30m");
    expect(end.stdout).toBe("RENDERPLANE_JOIN_TOKEN=rpj1.a npm run agent\n");
    expect(JSON.parse(server.requests.at(-1)?.body ?? "")).toEqual({ ttl_seconds: 1800, max_uses: 1 });
  });

  test("doctor is 8 without a server and still checks this machine", async () => {
    const end = await runCli(["doctor", "--json", "--server", "127.0.0.1:1"]);
    expect(end.exitCode).toBe(8);
    const findings = JSON.parse(end.stdout) as { check: string; verdict: string }[];
    expect(findings).toContainEqual(expect.objectContaining({ check: "server", verdict: "failed" }));
    expect(findings).toContainEqual(expect.objectContaining({ check: "encoder libx264", verdict: "ok" }));
    expect(findings).toContainEqual(expect.objectContaining({ check: "espeak-ng", verdict: "ok" }));
  });

  test("doctor is 0 when the server is ready and a host is online, and 8 when FFmpeg is missing", async () => {
    server.answer("GET /healthz", { status: 200, body: { ok: true } });
    server.answer("GET /readyz", { status: 200, body: { ok: true, checks: { database: true } } });
    server.answer("GET /api/v1/hosts", { status: 200, body: { items: [{ presence: "online" }] } });
    expect((await run("doctor")).exitCode).toBe(0);
    const env = { RENDERPLANE_SERVER: server.url, FFMPEG_PATH: "/nowhere/ffmpeg" };
    const end = await runCli(["doctor"], { env });
    expect(end.exitCode).toBe(8);
    expect(end.stdout).toContain("✗ ffmpeg");
    expect(end.stdout).toContain("sudo apt-get install -y --no-install-recommends ffmpeg");
  });
});

test("--json takes fields only when they look like fields", () => {
  expect(separateJson(["view", "--json", "v_01K"])).toEqual(["view", "--json=", "v_01K"]);
  expect(separateJson(["list", "--json"])).toEqual(["list", "--json="]);
  expect(separateJson(["list", "--json", "id,state"])).toEqual(["list", "--json", "id,state"]);
});

describe("before and beside a submission", () => {
  const estimate = {
    valid: true,
    pipeline: "narrated-video",
    complexity: "simple",
    position: 4,
    queue: { depth: 3, limit: 100, is_full: false },
    start: { earliest: "2026-11-22T09:00:00.000Z", latest: "2026-11-22T09:05:00.000Z" },
    finish: { earliest: "2026-11-22T09:10:00.000Z", latest: "2026-11-22T09:15:00.000Z" },
    basis: "target",
    cost: { estimate: 2, low: 1.15, high: 2, limit: 3, basis: "target" },
    hosts: 2,
    stages: [{ stage: "first", hosts: 2, hosts_now: 1, reasons: [{ rule: "cores", hosts: 1, example: "a: busy" }] }],
  };

  test("--dry-run asks for an estimate, submits nothing and says so", async () => {
    let body: unknown;
    server.answer("POST /api/v1/estimates", (_, response, text) => {
      body = JSON.parse(text);
      response.end(JSON.stringify(estimate));
    });
    const end = await run("submit", "-f", "script=Hi.", "-f", "deadline=2026-11-23T00:00:00Z", "--dry-run");
    expect(end.exitCode).toBe(0);
    expect(end.stdout).toContain("place    4 in a queue of 3");
    expect(end.stdout).toContain("$1.15 to $2.00, est. $2.00, stops at $3.00");
    expect(end.stdout).toContain("1 cores (a: busy)");
    expect(end.stderr).toBe("Nothing was submitted.\n");
    expect(body).toMatchObject({ deadline: "2026-11-23T00:00:00Z", request: { script: "Hi." } });
  });

  test("a job that would be refused exits as its submission would", async () => {
    const errors = [{ pointer: "/priority", detail: "priority is at most 9" }];
    server.answer("POST /api/v1/estimates", { status: 200, body: { valid: false, reason: "no", errors } });
    const end = await run("submit", "-f", "script=Hi.", "--dry-run");
    expect([end.exitCode, end.stderr]).toEqual([2, "✗ It would be refused: no\n  /priority: priority is at most 9\n"]);
    server.answer("POST /api/v1/estimates", {
      status: 200,
      body: { ...estimate, queue: { ...estimate.queue, is_full: true } },
    });
    expect((await run("submit", "-f", "script=Hi.", "--dry-run")).exitCode).toBe(11);
  });

  test("queue shows depth, limits, lanes and the head", async () => {
    server.answer("GET /api/v1/queue", {
      status: 200,
      body: {
        depth: 3,
        processing: 7,
        scheduled: 1,
        resting_stages: 2,
        oldest_wait_seconds: 61,
        lanes: [{ pipeline: "p", complexity: "simple", queued: 3, processing: 7, oldest_wait_seconds: 61 }],
        limits: { depth: 100, jobs: 7 },
        reached: { jobs: true, users: ["dana"], pipelines: [], providers: [] },
        head: [
          {
            position: 1,
            id: accepted.id,
            pipeline: "p",
            user_id: "dana",
            priority: 5,
            not_before: null,
            place: { share_seconds: 60, premium_seconds: 0 },
          },
        ],
      },
    });
    const { stdout, exitCode } = await run("queue");
    expect(exitCode).toBe(0);
    expect(stdout).toContain("3 of at most 100 jobs wait, the oldest for 1 m 01 s");
    expect(stdout).toContain("limits reached: jobs, jobs of dana");
    expect(stdout).toContain("+1 m 00 s");
  });
});
