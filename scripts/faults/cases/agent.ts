// Faults of a host: its agent, its shim, its programs, the machine itself. F1-F3, F8-F11, F35, F37-F40, F58.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { AttemptRow, Bed } from "../bed.ts";
import { beats, type FaultCase, slackMs } from "../case.ts";
import { until } from "../until.ts";
import { pastSince } from "../wait.ts";

const outcomeOf = async (bed: Bed, job: string, attempt: AttemptRow) =>
  (await bed.attempts(job)).find((each) => each.id === attempt.id)?.outcome;
const isGone = (bed: Bed, host: string, attempt: string) => async () => !(await bed.processes(host)).includes(attempt);
/** Two hosts; the work is on one of them. */
const onTwoHosts = async (bed: Bed, pipeline: string) => {
  await bed.fleet.startControlPlane();
  await bed.startAgent("alpha");
  await bed.startAgent("beta");
  return bed.begin(pipeline);
};

export const agentCases: readonly FaultCase[] = [
  {
    faults: ["F1", "F38"],
    injected: "kill -9 of the agent, started again at once, four times while three encodes run",
    // An agent starts in two seconds, on a busy machine in six: it must be back within the lost window.
    fleet: { heartbeatSeconds: 2 },
    within: { detectMs: 1_000 + slackMs, recoverMs: 5_000 + slackMs },
    run: async (bed) => {
      await bed.fleet.startControlPlane();
      await bed.startAgent("alpha");
      const { job, attempt } = await bed.begin("drill-12");
      await bed.submit("drill-6", 2);
      let detectMs = 0;
      let recoverMs = 0;
      for (let round = 0; round < 4; round++) {
        const began = performance.now();
        await bed.kill9("alpha");
        detectMs = Math.max(
          detectMs,
          await until("the stream is gone", async () => !(await bed.isOnline("alpha")), 20_000),
        );
        await bed.startAgent("alpha");
        recoverMs = Math.max(recoverMs, performance.now() - began);
      }
      await bed.settled();
      const works = (await bed.attempts(job)).filter((each) => each.stage === "work");
      assert.deepEqual(
        works.map((each) => [each.id, each.outcome]),
        [[attempt.id, "succeeded"]],
      );
      return { detectMs, recoverMs, note: "same attempt, same fence; programs started twice: 0" };
    },
  },
  {
    faults: ["F2"],
    injected: "kill -9 of the agent for good while it works on an exclusive stage",
    within: { detectMs: 1_000 + slackMs, recoverMs: beats(14) + slackMs },
    run: async (bed) => {
      const { job, attempt } = await onTwoHosts(bed, "drill-exclusive-90");
      const began = performance.now();
      await bed.kill9(attempt.host);
      const detectMs = await until("the stream is gone", async () => !(await bed.isOnline(attempt.host)), 20_000);
      const next = await bed.nextRunning(job, attempt);
      const recoverMs = performance.now() - began;
      assert.notEqual(next.host, attempt.host);
      assert.ok(await isGone(bed, attempt.host, attempt.id)(), "the old program ran on beside the new one");
      await bed.fleet.api("POST", `/api/v1/jobs/${job}/cancel`);
      await bed.settled();
      return { detectMs, recoverMs, note: "the old program had ended before the new one began" };
    },
    allowed: ["cancelled"],
  },
  {
    faults: ["F2"],
    injected: "the same with a stage that may be orphaned: the dead-man switch ends its program",
    within: { recoverMs: beats(14) + slackMs },
    run: async (bed) => {
      const { job, attempt } = await onTwoHosts(bed, "drill-90");
      const began = performance.now();
      await bed.kill9(attempt.host);
      await bed.nextRunning(job, attempt);
      const recoverMs = performance.now() - began;
      await bed.fleet.api("POST", `/api/v1/jobs/${job}/cancel`);
      await until("the orphan is gone", isGone(bed, attempt.host, attempt.id), beats(120) + 15_000, 500);
      const orphanMs = performance.now() - began;
      await bed.settled();
      return { detectMs: null, recoverMs, note: `orphan gone after ${Math.round(orphanMs / 1000)} s` };
    },
    allowed: ["cancelled"],
  },
  {
    faults: ["F3"],
    injected: "kill -9 of the agent and of the shim; the program goes on without either",
    within: { recoverMs: 10_000 + slackMs },
    run: async (bed) => {
      await bed.fleet.startControlPlane();
      await bed.startAgent("alpha");
      const { job, attempt } = await bed.begin("drill-12");
      const { shim } = await bed.pids("alpha", attempt.id);
      await bed.kill9("alpha");
      process.kill(shim, "SIGKILL");
      const began = performance.now();
      await bed.startAgent("alpha");
      await until("the orphan is gone", isGone(bed, "alpha", attempt.id), 10_000 + slackMs, 100);
      const recoverMs = performance.now() - began;
      await bed.settled();
      const outcome = await outcomeOf(bed, job, attempt);
      assert.ok(outcome !== "succeeded" && outcome !== null, `the attempt without a shim ended as ${outcome}`);
      return { detectMs: null, recoverMs, note: `the attempt ended as ${outcome}` };
    },
  },
  ...(["SIGKILL", "SIGSEGV"] as const).map(
    (signal): FaultCase => ({
      faults: ["F8"],
      injected: `${signal} to the program of a stage`,
      within: { detectMs: 2_000 + slackMs },
      run: async (bed) => {
        await bed.fleet.startControlPlane();
        await bed.startAgent("alpha");
        const { job, attempt } = await bed.begin("drill-3");
        const { program } = await bed.pids("alpha", attempt.id);
        const began = performance.now();
        process.kill(program, signal);
        const detectMs = await until(
          "the attempt has failed",
          async () => (await outcomeOf(bed, job, attempt)) === "failed",
        );
        await bed.nextRunning(job, attempt);
        const recoverMs = performance.now() - began;
        await bed.settled();
        return { detectMs, recoverMs };
      },
    }),
  ),
  {
    faults: ["F9"],
    injected: "SIGSTOP to the program: it hangs",
    within: { detectMs: 75_000 + slackMs },
    run: async (bed) => {
      await bed.fleet.startControlPlane();
      await bed.startAgent("alpha");
      const { job, attempt } = await bed.begin("drill-12");
      const { program } = await bed.pids("alpha", attempt.id);
      const began = performance.now();
      process.kill(program, "SIGSTOP");
      const detectMs = await until(
        "the attempt has failed",
        async () => (await outcomeOf(bed, job, attempt)) === "failed",
        120_000,
        250,
      );
      await bed.nextRunning(job, attempt);
      const recoverMs = performance.now() - began;
      await bed.settled(120_000);
      const [row] = await bed.fleet.sql<{ failure: { failureClass: string } }>(
        `select failure from attempts where id = $1`,
        [attempt.id],
      );
      assert.equal(row?.failure.failureClass, "stalled");
      return { detectMs, recoverMs, note: "failed as stalled" };
    },
  },
  {
    faults: ["F10"],
    injected: "SIGSTOP of the agent for longer than the lost window, then SIGCONT (zombie)",
    within: { recoverMs: beats(16) + slackMs },
    run: async (bed) => {
      const { job, attempt } = await onTwoHosts(bed, "drill-12");
      const began = performance.now();
      bed.fleet.freeze(attempt.host);
      const detectMs = await until(
        "it is lost",
        async () => (await outcomeOf(bed, job, attempt)) === "lost",
        30_000,
        50,
      );
      const next = await bed.nextRunning(job, attempt);
      const recoverMs = performance.now() - began;
      bed.fleet.thaw(attempt.host);
      const goneMs = await until(
        "the zombie's program is gone",
        isGone(bed, attempt.host, attempt.id),
        5_000 + slackMs,
        50,
      );
      await bed.settled();
      assert.equal(await outcomeOf(bed, job, attempt), "lost");
      assert.equal(await outcomeOf(bed, job, next), "succeeded");
      return { detectMs, recoverMs, note: `after SIGCONT the old program was gone in ${Math.round(goneMs)} ms` };
    },
  },
  {
    faults: ["F11"],
    injected: "SIGSTOP of the agent for four heartbeats (below the lease), then SIGCONT",
    run: async (bed) => {
      const { job, attempt } = await onTwoHosts(bed, "drill-6");
      bed.fleet.freeze(attempt.host);
      await until("four heartbeats", pastSince(beats(4)));
      bed.fleet.thaw(attempt.host);
      await bed.settled();
      const works = (await bed.attempts(job)).filter((each) => each.stage === "work");
      assert.deepEqual(
        works.map((each) => each.id),
        [attempt.id],
      );
      return { detectMs: null, recoverMs: 0, note: "requeues 0, same fence" };
    },
  },
  {
    faults: ["F35"],
    injected: "a job whose program crashes on every host",
    allowed: ["failed"],
    run: async (bed) => {
      await bed.fleet.startControlPlane();
      await bed.startAgent("alpha");
      await bed.startAgent("beta");
      const began = performance.now();
      const [job = ""] = await bed.submit("drill-poison");
      await bed.settled();
      const tries = (await bed.attempts(job)).length;
      assert.equal(tries, 3, "one try and two retries");
      const hosts = await bed.fleet.sql(`select name from hosts where intent <> 'open'`);
      assert.deepEqual(hosts, [], "a host was blamed for the job");
      return { detectMs: null, recoverMs: performance.now() - began, note: `${tries} attempts, hosts blamed 0` };
    },
  },
  {
    faults: ["F37"],
    injected: "the program gets too little memory (ulimit -v)",
    allowed: ["failed"],
    run: async (bed) => {
      await bed.fleet.startControlPlane();
      await bed.startAgent("alpha");
      const began = performance.now();
      const [job = ""] = await bed.submit("drill-hungry");
      await bed.settled();
      const rows = await bed.fleet.sql<{ class: string }>(
        `select failure ->> 'failureClass' as class from attempts where job_id = $1`,
        [job],
      );
      assert.ok(rows.length === 2, `${rows.length} attempts, one retry is allowed`);
      return { detectMs: null, recoverMs: performance.now() - began, note: `failed as ${rows.at(-1)?.class}` };
    },
  },
  {
    faults: ["F39"],
    injected: "the host reboots: agent and programs gone, another boot id (a mount of its own over the file)",
    unable: async () => (process.getuid?.() === 0 ? undefined : "needs root for a mount namespace"),
    within: { recoverMs: 10_000 + slackMs },
    run: async (bed) => {
      await bed.fleet.startControlPlane();
      await bed.startAgent("alpha");
      const { job, attempt } = await bed.begin("drill-6");
      const { shim, program } = await bed.pids("alpha", attempt.id);
      const began = performance.now();
      await bed.kill9("alpha");
      for (const pid of [shim, program]) process.kill(pid, "SIGKILL");
      const bootId = join(bed.dir, "boot_id");
      await writeFile(bootId, "11111111-2222-4333-8444-555555555555\n");
      const script = `mount --bind ${bootId} /proc/sys/kernel/random/boot_id && exec "$@"`;
      await bed.startAgent("alpha", { wrap: ["unshare", "-m", "sh", "-c", script, "sh"] });
      await bed.nextRunning(job, attempt);
      const recoverMs = performance.now() - began;
      await bed.settled();
      return { detectMs: null, recoverMs, note: `ended as ${await outcomeOf(bed, job, attempt)}` };
    },
  },
  {
    faults: ["F40"],
    injected: "a pid of the journal belongs to a stranger by now",
    run: async (bed) => {
      await bed.fleet.startControlPlane();
      await bed.startAgent("alpha");
      const { attempt } = await bed.begin("drill-6");
      const { shim, program } = await bed.pids("alpha", attempt.id);
      await bed.kill9("alpha");
      for (const pid of [shim, program]) process.kill(pid, "SIGKILL");
      const stranger = spawn("sleep", ["120"], { stdio: "ignore" });
      try {
        const step = join(bed.fleet.agentDir("alpha"), "attempts", attempt.id, "steps", "noop");
        for (const name of ["shim.json", "run.json"]) {
          const text = await readFile(join(step, name), "utf8");
          await writeFile(join(step, name), text.replace(/"pid":\d+/, `"pid":${stranger.pid}`));
        }
        await bed.startAgent("alpha");
        await bed.settled();
        assert.equal(stranger.exitCode ?? stranger.signalCode, null, "a stranger was killed");
      } finally {
        stranger.kill("SIGKILL");
      }
      return { detectMs: null, recoverMs: null, note: "strangers killed: 0" };
    },
  },
  {
    faults: ["F58"],
    injected: "bits flipped in the journal of one of three attempts while the agent is down",
    fleet: { heartbeatSeconds: 2 },
    within: { recoverMs: 28_000 + slackMs },
    run: async (bed) => {
      await bed.fleet.startControlPlane();
      await bed.startAgent("alpha");
      const { job, attempt } = await bed.begin("drill-6");
      await bed.submit("drill-6", 2);
      await until("three programs run", async () => (await bed.processes("alpha")).length === 3, 20_000, 100);
      await bed.kill9("alpha");
      const root = join(bed.fleet.agentDir("alpha"), "attempts", attempt.id);
      const spec = (await readdir(root)).find((name) => name.startsWith("spec"));
      assert.ok(spec !== undefined, "the attempt has no spec");
      const bytes = await readFile(join(root, spec));
      for (let at = Math.floor(bytes.length / 3); at < bytes.length; at += 97) bytes[at] = (bytes[at] ?? 0) ^ 1;
      await writeFile(join(root, spec), bytes);
      const began = performance.now();
      await bed.startAgent("alpha");
      await bed.nextRunning(job, attempt);
      const recoverMs = performance.now() - began;
      await bed.settled();
      const others = await bed.fleet.sql<{ count: number }>(
        `select count(*)::int as count from attempts a join stages s on s.id = a.stage_id where s.name = 'work' and a.outcome = 'succeeded' and a.number = 1`,
      );
      assert.equal(others[0]?.count, 2, "an attempt with a whole journal was lost too");
      return { detectMs: null, recoverMs, note: "the two others kept their attempts" };
    },
  },
];
