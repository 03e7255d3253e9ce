// Real processes under the real shim: one start a step, exits on disk, adoption by a second runner, and every way to end.
import { spawn } from "node:child_process";
import { closeSync, existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { StepOutcome, StepSpec } from "../domain/step.ts";
import { createHost } from "./host.ts";
import { identityOf, isAlive, markedProcesses, readBootId, readStat } from "./proc.ts";
import { markerName, runStep } from "./process.ts";

let root = "";
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "renderplane-step-"));
  mkdirSync(join(root, "steps"));
  mkdirSync(join(root, "work"));
  writeFileSync(join(root, "lease"), "1\n");
});
afterEach(async () => {
  await createHost().endMarked(root);
  rmSync(root, { recursive: true, force: true });
});

const never = new AbortController().signal;
const quiet = { stop: never, detach: never };
const step = (script: string, more: Partial<StepSpec> = {}): StepSpec => ({
  dir: join(root, "steps", "one"),
  cwd: join(root, "work"),
  command: ["/bin/sh", "-c", script],
  stdin: "",
  marker: root,
  env: { PATH: "/usr/bin:/bin", HOME: join(root, "work"), LC_ALL: "C.UTF-8" },
  leaseFile: join(root, "lease"),
  leaseLimitMs: 30_000,
  runtimeMs: 30_000,
  killAfterMs: 2_000,
  stallMs: 30_000,
  ...more,
});
const file = (name: string) => readFileSync(join(root, "steps", "one", name), "utf8");
const exitOf = (outcome: StepOutcome) => {
  if (outcome.kind !== "ended") throw new Error(`the step did not end by itself: ${outcome.kind}`);
  return outcome.exit;
};
const until = async (what: string, isTrue: () => boolean) => {
  const deadline = Date.now() + 10_000;
  while (!isTrue()) {
    if (Date.now() > deadline) throw new Error(`never came true: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
};
const marked = () => markedProcesses(markerName, root);

describe("a durable step", () => {
  test("keeps output, stdin, exit code and time on disk and gives nothing of the agent's environment away", async () => {
    process.env.RENDERPLANE_TEST_SECRET = "canary";
    const outcome = await runStep(step("cat; env; echo oops >&2; exit 3", { stdin: "hello\n" }), quiet);
    delete process.env.RENDERPLANE_TEST_SECRET;
    expect(exitOf(outcome)).toMatchObject({ exitCode: 3, signal: null, endedBy: "" });
    expect(file("stdout")).toContain("hello\n");
    expect(file("stdout")).toContain(`RENDERPLANE_ATTEMPT=${root}`);
    expect(file("stdout")).not.toContain("canary");
    expect(file("stderr")).toBe("oops\n");
  });

  test("a second start of the same step does not touch the input that the first one reads", async () => {
    // An agent was killed right after it had started the shim: the program reads, and shim.json is not there yet.
    mkdirSync(join(root, "steps", "one"));
    writeFileSync(join(root, "steps", "one", "stdin"), "hello\n");
    const reading = openSync(join(root, "steps", "one", "stdin"), "r");
    await runStep(step("cat", { stdin: "another\n" }), quiet);
    expect(readFileSync(reading, "utf8")).toBe("hello\n");
    closeSync(reading);
  });

  test("runs in a session of its own with nice 10 and without core dumps", async () => {
    await runStep(step("cut -d' ' -f 5,6,19 /proc/$$/stat; echo $$; ulimit -c; exit 0"), quiet);
    const [stat = "", pid = "", core = ""] = file("stdout").split("\n");
    expect(stat).toBe(`${pid} ${pid} 10`);
    expect(core).toBe("0");
  });

  test("tells signals from exit codes, also those of FFmpeg 7 that lie above 128", async () => {
    expect(exitOf(await runStep(step("kill -SEGV $$"), quiet))).toMatchObject({ exitCode: null, signal: "SIGSEGV" });
    rmSync(join(root, "steps", "one"), { recursive: true });
    expect(exitOf(await runStep(step("exit 183"), quiet))).toMatchObject({ exitCode: 183, signal: null });
  });

  test("is started once, however many runners ask for it at the same time, and answers from disk ever after", async () => {
    const spec = step("echo start >> ../starts; sleep 0.3; exit 7");
    const outcomes = await Promise.all([runStep(spec, quiet), runStep(spec, quiet), runStep(spec, quiet)]);
    for (const outcome of outcomes) expect(exitOf(outcome).exitCode).toBe(7);
    expect(exitOf(await runStep(spec, quiet)).exitCode).toBe(7);
    expect(readFileSync(join(root, "starts"), "utf8")).toBe("start\n");
  });

  test("goes on when the runner looks away, and the next runner adopts it", async () => {
    const spec = step("echo start >> ../starts; while [ ! -e go ]; do sleep 0.02; done; exit 5");
    const detach = new AbortController();
    const first = runStep(spec, { stop: never, detach: detach.signal });
    await until("it started", () => existsSync(join(root, "starts")));
    detach.abort();
    expect(await first).toEqual({ kind: "detached" });
    const second = runStep(spec, quiet);
    writeFileSync(join(root, "work", "go"), "");
    expect(exitOf(await second).exitCode).toBe(5);
    expect(readFileSync(join(root, "starts"), "utf8")).toBe("start\n");
  });

  test("stops with TERM, and with KILL when that is ignored, grandchildren in its session included", async () => {
    const stop = new AbortController();
    const script = "trap '' TERM; (trap '' TERM; sleep 60) & touch started; wait";
    const running = runStep(step(script, { killAfterMs: 200 }), { stop: stop.signal, detach: never });
    await until("it started", () => existsSync(join(root, "work", "started")));
    expect(marked().length).toBeGreaterThanOrEqual(3);
    stop.abort();
    expect(await running).toEqual({ kind: "stopped" });
    await until("nothing is left", () => marked().length === 0);
  });

  test("a grandchild that left the session is found by the marker", async () => {
    await runStep(step("setsid sleep 60 & sleep 0.1; exit 0"), quiet);
    // The shim and its watcher leave a moment after the exit was written.
    await until("only the grandchild is left", () => marked().length === 1);
    expect(await createHost().endMarked(root)).toBe(1);
    expect(marked()).toEqual([]);
  });

  test("the dead-man switch ends it when nobody renews the lease, and a renewed lease keeps it", async () => {
    const renewing = setInterval(() => writeFileSync(join(root, "lease"), `${Date.now()}\n`), 50);
    const kept = exitOf(await runStep(step("sleep 1.2; exit 0", { leaseLimitMs: 500 }), quiet));
    clearInterval(renewing);
    expect(kept).toMatchObject({ exitCode: 0, endedBy: "" });
    rmSync(join(root, "steps", "one"), { recursive: true });
    const ended = exitOf(await runStep(step("sleep 60", { leaseLimitMs: 400 }), quiet));
    expect(ended).toMatchObject({ exitCode: null, signal: "SIGTERM", endedBy: "lease" });
    expect(ended.elapsedMs).toBeLessThan(10_000);
    await until("nothing is left", () => marked().length === 0);
  });

  test("the runtime limit holds without an agent, and KILL follows an ignored TERM", async () => {
    const detach = new AbortController();
    const spec = step("trap '' TERM; while :; do sleep 0.05; done", { runtimeMs: 300, killAfterMs: 200 });
    const first = runStep(spec, { stop: never, detach: detach.signal });
    await until("it started", () => existsSync(join(root, "steps", "one", "run.json")));
    detach.abort();
    await first;
    await until("the shim ended it", () => existsSync(join(root, "steps", "one", "exit.json")));
    expect(exitOf(await runStep(spec, quiet))).toMatchObject({ signal: "SIGKILL", endedBy: "runtime" });
  });

  test("a stopped process without output and CPU is ended as stalled", async () => {
    const running = runStep(step("touch started; sleep 60", { stallMs: 1_200, killAfterMs: 300 }), quiet);
    await until("it started", () => existsSync(join(root, "work", "started")));
    process.kill(-JSON.parse(file("run.json")).pid, "SIGSTOP");
    expect(await running).toMatchObject({ kind: "stalled" });
    await until("nothing is left", () => marked().length === 0);
  });

  test("output counts as life: a slow writer is not stalled", async () => {
    const script = "for i in 1 2 3 4 5 6; do echo $i; sleep 0.35; done";
    expect(exitOf(await runStep(step(script, { stallMs: 1_200 }), quiet)).exitCode).toBe(0);
  });

  test("when shim and program are killed from outside the step is lost, and nothing is started again", async () => {
    const spec = step("echo start >> ../starts; sleep 60", { runtimeMs: 2_000 });
    const running = runStep(spec, quiet);
    const starts = () => (existsSync(join(root, "starts")) ? readFileSync(join(root, "starts"), "utf8") : "");
    await until("it started", () => starts() !== "");
    process.kill(JSON.parse(file("shim.json")).pid, "SIGKILL");
    expect(await running).toEqual({ kind: "lost" });
    // The orphan was ended too.
    await until("nothing is left", () => marked().length === 0);
    expect(await runStep(spec, quiet)).toEqual({ kind: "lost" });
    expect(starts()).toBe("start\n");
  });

  test("a reused pid is never signalled: forged identities of a living stranger", async () => {
    const stranger = spawn("sleep", ["60"]);
    try {
      const real = identityOf(stranger.pid ?? 0);
      if (!real) throw new Error("the stranger did not start");
      mkdirSync(join(root, "steps", "one"));
      for (const forged of [
        { ...real, start: "1" },
        { ...real, boot: "another-boot" },
      ]) {
        for (const name of ["shim.json", "run.json"])
          writeFileSync(join(root, "steps", "one", name), JSON.stringify(forged));
        expect(await runStep(step("exit 0"), quiet)).toEqual({ kind: "lost" });
      }
      expect(isAlive(real, readBootId())).toBe(true);
      expect(readStat(real.pid)?.state).toBe("S");
    } finally {
      stranger.kill("SIGKILL");
    }
  });

  test("a damaged exit file is no exit", async () => {
    const spec = step("exit 0");
    mkdirSync(spec.dir);
    writeFileSync(join(spec.dir, "exit.json"), '{"status":0,"elap');
    // The shim replaces it when the program has really ended.
    expect(exitOf(await runStep(spec, quiet)).exitCode).toBe(0);
  });
});
