#!/usr/bin/env node
// The agent's door: keeps the process small, then runs main.ts. JavaScript, because all of this must happen before the first
// TypeScript file is read. `node main.ts` works as well and needs 30 MB more. Measured at rest, after an enrolment:
//   - the program that strips types stays in memory once it was needed (14 MB). The cache in the agent's folder holds stripped
//     and compiled files; where there is none yet, a process that ends at once fills it, so the first start is as small as later ones.
//   - V8 keeps 16 MB for new objects after a busy start; a process that mostly waits for FFmpeg does well with 1 MB.
//   - zod brings its messages in 52 languages (3 MB); the agent speaks one of them.
// Keeps: a cache that cannot be written costs memory and never a start. Nobody but the owner can write it: it is code.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync } from "node:fs";
import module from "node:module";
import { join } from "node:path";
import v8 from "node:v8";

/** Ten times what a busy host of two cores needed. */
const fillLimitMs = 60_000;
const fillOnly = "--fill-cache";

// Before the cache is opened: compiled code is of one set of flags.
v8.setFlagsFromString("--optimize-for-size");
const isFilling = process.argv[2] === fillOnly;
const agentDir = process.env.RENDERPLANE_AGENT_DIR || ".renderplane/agent";
try {
  const cacheDir = join(agentDir, "compile-cache", process.version);
  const isNew = !existsSync(cacheDir);
  mkdirSync(cacheDir, { recursive: true, mode: 0o700 });
  if (isNew && !isFilling)
    spawnSync(process.execPath, [import.meta.filename, fillOnly], {
      env: { RENDERPLANE_AGENT_DIR: agentDir },
      stdio: "ignore",
      timeout: fillLimitMs,
      killSignal: "SIGKILL",
    });
  module.enableCompileCache(cacheDir);
} catch {
  // The folder is wrong, full or read only: main.ts says so better.
}
module.registerHooks({
  load: (url, context, next) =>
    url.endsWith("/zod/v4/locales/index.js")
      ? { format: "module", shortCircuit: true, source: 'export { default as en } from "./en.js";' }
      : next(url, context),
});
const { main } = await import("./main.ts");
if (!isFilling) await main();
