// One agent a folder, and a folder whose agent was killed is free at once.
import { fork } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { folderLock } from "./lock.ts";
import { identityOf } from "./proc.ts";

let dir = "";
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "renderplane-lock-"));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

test("a second agent is refused with a sentence that names the folder, and may start when the first has stopped", async () => {
  const first = folderLock(dir);
  await first.start();
  await expect(folderLock(dir).start()).rejects.toThrow(`RENDERPLANE_AGENT_DIR ${dir} belongs to a running agent`);
  await first.stop();
  const second = folderLock(dir);
  await second.start();
  await second.stop();
});

test("the lock of a killed agent is free at once", async () => {
  const script = join(dir, "holder.mjs");
  const lock = new URL("./lock.ts", import.meta.url).href;
  writeFileSync(
    script,
    `import { folderLock } from ${JSON.stringify(lock)};
     await folderLock(${JSON.stringify(dir)}).start();
     process.send("held");
     setTimeout(() => {}, 60_000);`,
  );
  const holder = fork(script, { execArgv: [] });
  await new Promise((resolve) => holder.once("message", resolve));
  await expect(folderLock(dir).start()).rejects.toThrow(`(pid ${holder.pid})`);
  const dead = new Promise((resolve) => holder.once("exit", resolve));
  holder.kill("SIGKILL");
  await dead;
  const next = folderLock(dir);
  await next.start();
  await next.stop();
});

test("a file that names a living process of another network namespace is believed, one of a reused pid is not", async () => {
  const parent = identityOf(process.ppid);
  if (!parent) throw new Error("no parent");
  writeFileSync(join(dir, "agent.lock"), JSON.stringify(parent));
  await expect(folderLock(dir).start()).rejects.toThrow(`(pid ${parent.pid})`);
  writeFileSync(join(dir, "agent.lock"), JSON.stringify({ ...parent, start: "1" }));
  const lock = folderLock(dir);
  await lock.start();
  await lock.stop();
});
