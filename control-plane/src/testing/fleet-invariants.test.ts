// What the checker says of folders, processes and logs, each broken on purpose in a folder of this test. The database is a list of
// live attempts here: its own invariants are broken in invariants.test.ts.
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { brokenFleet, type FleetFacts, markedAttempts } from "./fleet-invariants.ts";

let dir = "";
let agent = "";
let live: { id: string; state: string; host: string }[] = [];
const children: ChildProcess[] = [];

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "renderplane-invariants-"));
  agent = join(dir, "alpha");
  await mkdir(join(agent, "attempts", "a_1"), { recursive: true });
  await writeFile(join(agent, "identity.json"), JSON.stringify({ hostId: "h_1" }));
  live = [{ id: "a_1", state: "running", host: "h_1" }];
});
afterEach(async () => {
  for (const child of children.splice(0)) {
    if (child.exitCode !== null || child.signalCode !== null) continue;
    child.kill("SIGKILL");
    await once(child, "exit");
  }
  await rm(dir, { recursive: true, force: true });
});

const look = (more: Partial<FleetFacts> = {}): Promise<string[]> =>
  brokenFleet({
    sql: async (text) => (text.startsWith("select a.id, a.state") ? live : []),
    agentDirs: [agent],
    settleMs: 0,
    ...more,
  });
const program = async (attempt: string): Promise<void> => {
  const child = spawn("sleep", ["30"], {
    env: { ...process.env, RENDERPLANE_ATTEMPT: join(agent, "attempts", attempt) },
  });
  children.push(child);
  await once(child, "spawn");
};

test("a host in order: a live attempt with its folder and its process", async () => {
  await program("a_1");
  expect(await look()).toEqual([]);
  expect(await markedAttempts(agent)).toEqual(["a_1"]);
});

test("a folder of an attempt that has ended is named", async () => {
  live = [];
  expect(await look()).toEqual(["a folder of an attempt whose end was answered: alpha/a_1"]);
});

test("I11: a process that nobody holds, and an attempt that the host lost, are named", async () => {
  await program("a_2");
  expect(await look()).toEqual(["I11 a process of an attempt that the host does not hold: alpha/a_2"]);
  await rm(join(agent, "attempts", "a_1"), { recursive: true });
  expect(await look({ processesOf: async () => [] })).toEqual([
    "I11 an attempt that the host should hold and does not: alpha/a_1",
  ]);
});

test("an attempt of a host whose agent is not asked about is not missed", async () => {
  live.push({ id: "a_3", state: "running", host: "h_2" });
  expect(await look()).toEqual([]);
});

test("drafts and removals that were left are named", async () => {
  await writeFile(join(agent, "attempts", "a_1", "result.json.new"), "");
  await mkdir(join(agent, "removed", "a_0"), { recursive: true });
  expect(await look()).toEqual([
    "a file that was left half done: alpha/removed/a_0",
    "a file that was left half done: alpha/attempts/a_1/result.json.new",
  ]);
});

test("I21: a secret in a log or in an event is named by its beginning only", async () => {
  const secrets = ["rpj1.id.secret"];
  const sql: FleetFacts["sql"] = async (text) => {
    if (text.startsWith("select a.id, a.state")) return live;
    return text.includes("position('rpj1.id.secret'") ? [{ id: 1n }] : [];
  };
  expect(await look({ sql, secrets, logs: ["said rpj1.id.secret aloud"] })).toEqual([
    "I21 a secret stands in a log: rpj1.i…",
    "I21 a secret stands in an event: rpj1.i…",
  ]);
  expect(await look({ secrets, logs: ["said nothing"] })).toEqual([]);
});

test("what comes right in time is not named", async () => {
  live = [];
  let looks = 0;
  const sql: FleetFacts["sql"] = async (text) => {
    if (text.startsWith("select a.id, a.state") && ++looks === 2)
      await rm(join(agent, "attempts", "a_1"), { recursive: true });
    return [];
  };
  expect(await look({ sql, settleMs: 5_000 })).toEqual([]);
  expect(looks).toBeGreaterThanOrEqual(2);
});
