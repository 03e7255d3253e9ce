// The agent's door as a process: what it leaves behind, and that a refusal reads the same through it as without it.
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { formatJoinToken } from "@renderplane/proto/kernel/join-token.ts";
import { afterAll, expect, test } from "vitest";
import { settings } from "./config.ts";
import { until } from "./testing.ts";

const root = mkdtempSync(join(tmpdir(), "renderplane-start-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

/** A process that strips and compiles every file of the agent on a busy machine. */
const startLimitMs = 120_000;

/** A setting that is refused: the agent ends after all of its files were read. */
const start = (dir: string, more: NodeJS.ProcessEnv = {}) =>
  spawnSync(process.execPath, [join(import.meta.dirname, "start.js")], {
    env: { PATH: process.env.PATH ?? "", RENDERPLANE_AGENT_DIR: dir, RENDERPLANE_AGENT_NAME: "NO NAME", ...more },
    encoding: "utf8",
  });

test(
  "already the first start finds every file stripped, so the program that strips types stays out of memory",
  () => {
    const dir = join(root, "agent");
    const { stdout, stderr, status } = start(dir, { NODE_DEBUG_NATIVE: "COMPILE_CACHE" });
    const lines = `${stdout}${stderr}`.split("\n");
    expect(lines.filter((line) => line.includes("retrieving transpile cache")).length).toBeGreaterThan(20);
    expect(lines.filter((line) => line.includes("no transpile cache"))).toEqual([]);
    expect(status).toBe(2);
    // Code lies there: nobody else may write it.
    for (const folder of [dir, join(dir, "compile-cache")]) expect(statSync(folder).mode & 0o777).toBe(0o700);
    expect(settings.dir.schema.parse(undefined)).toBe(".renderplane/agent");
  },
  startLimitMs,
);

test("a host that waits for its control plane to enrol stops in order at the first SIGTERM", async () => {
  const dir = join(root, "waiting");
  const token = formatJoinToken({ id: "i".repeat(16), secret: "s".repeat(43), pin: "p".repeat(43) });
  const agent = spawn(process.execPath, [join(import.meta.dirname, "main.ts")], {
    env: {
      PATH: process.env.PATH ?? "",
      RENDERPLANE_AGENT_DIR: dir,
      RENDERPLANE_ENROL_ADDRESS: "127.0.0.1:1",
      RENDERPLANE_JOIN_TOKEN: token,
    },
    stdio: ["ignore", "pipe", "inherit"],
  });
  let log = "";
  agent.stdout.on("data", (chunk: Buffer) => {
    log += chunk;
  });
  const ended = once(agent, "exit");
  await until("it waits", () => log.includes("cannot be reached"), 30_000);
  agent.kill("SIGTERM");
  expect(await ended).toEqual([0, null]);
  expect(log).toContain("stopped");
}, 60_000);

test(
  "a folder that cannot be used is main's to refuse, in one sentence",
  () => {
    const file = join(root, "file");
    writeFileSync(file, "");
    const { stderr, status } = start(join(file, "agent"));
    expect(status).toBe(2);
    expect(stderr).toMatch(/^RENDERPLANE_AGENT_NAME: must be .*\n$/);
    expect(existsSync(join(file, "agent"))).toBe(false);
  },
  startLimitMs,
);
