#!/usr/bin/env node
// `npx renderplane`: hands the process to the command line and exits with its code. The first Ctrl-C lets the command say what
// goes on without it; the second leaves at once.
import { enableCompileCache } from "node:module";

enableCompileCache();

const { runCommandLine } = await import("./program.ts");
const abort = new AbortController();
for (const signal of ["SIGINT", "SIGTERM"] as const)
  process.on(signal, () => {
    if (abort.signal.aborted) process.exit(signal === "SIGINT" ? 130 : 143);
    abort.abort(signal);
  });
// A reader that closed its end (`| head`) is no error of ours.
process.stdout.on("error", (error: NodeJS.ErrnoException) => process.exit(error.code === "EPIPE" ? 0 : 1));

process.exitCode = await runCommandLine(process.argv.slice(2), {
  streams: { stdout: process.stdout, stderr: process.stderr },
  env: process.env,
  stdin: process.stdin,
  signal: abort.signal,
});
