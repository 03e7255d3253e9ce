#!/usr/bin/env node
// The control plane as a process: reads the environment, starts everything, stops in order at SIGINT or SIGTERM.
// A second signal, or 40 s, end it at once. Exit codes: 0 stopped in order, 1 a fault, 2 a setting or a port that cannot be used (one sentence on stderr).
import module from "node:module";
import { ConfigError, redacted } from "@renderplane/proto/kernel/process/environment.ts";
import { untilSignal } from "@renderplane/proto/kernel/process/lifecycle.ts";
import { createLogger } from "@renderplane/proto/kernel/process/logger.ts";

module.enableCompileCache();
const { readConfig, settings } = await import("./config.ts");
const { startControlPlane } = await import("./control-plane.ts");

/** A supervisor that sends KILL after 60 or 90 s must not be what ends this. */
const exitMs = 40_000;

const run = async (): Promise<number> => {
  const config = readConfig(process.env);
  const log = createLogger({ level: config.logLevel, process: "control-plane" });
  log.info({ settings: redacted(settings, config) }, "starting");
  const signalled = untilSignal();
  const controlPlane = await startControlPlane(config, log);
  log.info(
    {
      http: controlPlane.http.url(),
      agents: controlPlane.grpc.agentAddress(),
      enrolment: controlPlane.grpc.enrolAddress(),
    },
    "started",
  );
  const signal = await signalled;
  log.info({ signal }, "stopping");
  setTimeout(() => {
    log.error("stopping took too long; what is left is recovered at the next start");
    process.exit(1);
  }, exitMs).unref();
  await controlPlane.stop();
  log.info("stopped");
  return 0;
};

process.exitCode = await run().catch((error: unknown) => {
  process.stderr.write(
    error instanceof ConfigError ? `${error.message}\n` : `${error instanceof Error ? error.stack : String(error)}\n`,
  );
  return error instanceof ConfigError ? 2 : 1;
});
// A part that was left behind at the deadline must not keep the process.
process.exit();
