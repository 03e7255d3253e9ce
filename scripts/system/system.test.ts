// The parts that keep a system running on one machine, with real processes: started again after a kill -9, stopped by pid,
// nothing left behind, and never a signal to a process that is not ours.
import { spawn } from "node:child_process";
import { chmod, mkdir, mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { keepProcess, lastWords } from "./keeper.ts";
import { endLeftovers } from "./leftovers.ts";
import { isSame, startOf } from "./process-identity.ts";
import { FolderInUse, takeFolder, writeSession } from "./session-file.ts";

let folder: string;
const spawned: number[] = [];
beforeEach(async () => {
  // A blank in the path, as in many home folders.
  folder = join(await mkdtemp(join(tmpdir(), "renderplane-system-")), "a folder");
  await mkdir(folder);
});
afterEach(async () => {
  for (const pid of spawned.splice(0)) {
    try {
      process.kill(pid, "SIGKILL");
    } catch {
      // It has ended, which is what most of these tests are about.
    }
  }
  await rm(join(folder, ".."), { recursive: true, force: true });
});

const until = async (condition: () => boolean | Promise<boolean>) => {
  const end = performance.now() + 15_000;
  while (!(await condition())) {
    if (performance.now() > end) throw new Error("the condition did not come true in 15 s");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
};
const sleeper = (env: NodeJS.ProcessEnv = {}): number => {
  const child = spawn("sleep", ["300"], {
    env: { PATH: process.env.PATH, ...env },
    cwd: folder,
    detached: true,
    stdio: "ignore",
  });
  const pid = child.pid ?? 0;
  spawned.push(pid);
  return pid;
};
const keep = async (source: string, said: string[] = []) => {
  const file = join(folder, "main.mjs");
  await writeFile(file, source);
  const kept = await keepProcess({
    name: "sample",
    args: [file],
    cwd: folder,
    env: async () => process.env,
    logFile: join(folder, "sample.log"),
    onRestart: (text) => said.push(text),
  });
  return kept;
};

describe("a kept process", () => {
  test("is started again after kill -9, keeps its log, and stays away after stop", async () => {
    const said: string[] = [];
    const kept = await keep('console.log("up"); setInterval(() => {}, 1000);', said);
    const log = () => readFile(join(folder, "sample.log"), "utf8");
    await until(async () => (await log()) === "up\n");
    const first = kept.pid() ?? 0;
    process.kill(first, "SIGKILL");
    await until(async () => (await log()) === "up\nup\n");
    expect(said).toEqual(["sample was ended by SIGKILL; starting it again"]);
    expect(kept.pid()).not.toBe(first);
    await kept.stop();
    await kept.stop();
    expect(kept.pid()).toBeUndefined();
  });

  test("stop waits for a process that takes its time, and a stop during the pause starts nothing", async () => {
    const slow = await keep(
      'process.on("SIGTERM", () => setTimeout(() => { console.log("done"); process.exit(0); }, 200)); console.log("up"); setInterval(() => {}, 1000);',
    );
    await until(async () => (await readFile(join(folder, "sample.log"), "utf8")) === "up\n");
    await slow.stop();
    expect(await readFile(join(folder, "sample.log"), "utf8")).toBe("up\ndone\n");
    const dying = await keep("process.exit(3);");
    await until(() => dying.ends().count > 0);
    expect(dying.ends().last).toBe("ended with exit code 3");
    await dying.stop();
    const { count } = dying.ends();
    await new Promise((resolve) => setTimeout(resolve, 600));
    expect(dying.ends().count).toBe(count);
  });

  test("its last words are the warnings and errors of its log", async () => {
    const file = join(folder, "words.log");
    const lines = [
      JSON.stringify({ level: 30, msg: "started" }),
      JSON.stringify({ level: 50, msg: "cannot listen", err: { message: "port 8000 is in use" } }),
      "Error: plain text",
    ];
    await writeFile(file, `${lines.join("\n")}\n`);
    expect(await lastWords(file)).toBe("cannot listen: port 8000 is in use\nError: plain text");
    expect(await lastWords(join(folder, "missing.log"))).toBe("");
  });
});

describe("leftovers of a stopped agent", () => {
  test("ends the processes of its attempts, shim first, and clears the step they were cut off in", async () => {
    const step = join(folder, "attempts/a_1/steps/01-render");
    await mkdir(step, { recursive: true });
    const shim = join(folder, "step-shim.sh");
    await writeFile(shim, "trap '' TERM INT HUP\nsleep 300 &\nwait\necho ended >\"$1/exit.json\"\n");
    await chmod(shim, 0o700);
    const env = { PATH: process.env.PATH, RENDERPLANE_ATTEMPT: join(folder, "attempts/a_1") };
    const child = spawn("/bin/sh", [shim, step], { cwd: step, env, detached: true, stdio: "ignore" });
    spawned.push(child.pid ?? 0);
    const marked = sleeper({ RENDERPLANE_ATTEMPT: join(folder, "attempts/a_2") });
    const unmarked = sleeper();
    const elsewhere = sleeper({ RENDERPLANE_ATTEMPT: join(tmpdir(), "agent/attempts/a_3") });
    await until(async () => (await readFile(`/proc/${child.pid}/task/${child.pid}/children`, "utf8")) !== "");
    expect(await endLeftovers(folder)).toBe(3);
    expect(await startOf(child.pid ?? 0)).toBeUndefined();
    expect(await startOf(marked)).toBeUndefined();
    expect(await startOf(unmarked)).toBeDefined();
    expect(await startOf(elsewhere)).toBeDefined();
    await expect(stat(step)).rejects.toMatchObject({ code: "ENOENT" });
    expect(await endLeftovers(join(folder, "missing"))).toBe(0);
  });
});

describe("one quickstart a folder", () => {
  test("a second one is refused with the way out", async () => {
    await writeSession(folder, "http://127.0.0.1:8000", []);
    await expect(takeFolder(folder, () => {})).rejects.toThrow(FolderInUse);
    await expect(takeFolder(folder, () => {})).rejects.toThrow(`kill ${process.pid}`);
  });

  test("what a killed one left is stopped, a process that only has the same pid is not", async () => {
    const [left, other] = [sleeper(), sleeper()];
    await until(async () => (await startOf(left)) !== undefined && (await startOf(other)) !== undefined);
    const processes = [
      { pid: left, start: await startOf(left) },
      { pid: other, start: "12" },
    ];
    const dead = { pid: process.pid, start: "1" };
    await writeFile(join(folder, "quickstart.json"), JSON.stringify({ script: dead, url: "x", processes }));
    const said: string[] = [];
    await takeFolder(folder, (text) => said.push(text));
    expect(said).toHaveLength(1);
    expect(await startOf(left)).toBeUndefined();
    expect(await startOf(other)).toBeDefined();
    expect(await isSame({ pid: process.pid, start: "1" })).toBe(false);
  });

  test("a damaged file stops nobody", async () => {
    await writeFile(join(folder, "quickstart.json"), "{half");
    await expect(takeFolder(folder, () => {})).resolves.toBeUndefined();
  });
});
