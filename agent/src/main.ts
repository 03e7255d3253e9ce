#!/usr/bin/env node
// The agent as a process: reads the environment, starts everything, stops in order at SIGINT or SIGTERM; a second signal ends it at
// once. Running work is left to its shims and adopted by the next start, or drained first (RENDERPLANE_DRAIN_SECONDS). start.js is the door that launchers use; this file alone runs too.
// Exit codes: 0 stopped in order, 1 a fault, 2 a setting, a token or a program that cannot be used (one sentence on stderr).
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { ConfigError, redacted } from "@renderplane/proto/kernel/process/environment.ts";
import { untilSignal } from "@renderplane/proto/kernel/process/lifecycle.ts";
import { createLogger } from "@renderplane/proto/kernel/process/logger.ts";
import { startAgent } from "./agent.ts";
import { readConfig, settings } from "./config.ts";

const run = async (): Promise<number> => {
  const config = readConfig(process.env);
  const log = createLogger({ level: config.logLevel, process: "agent" });
  log.info({ settings: redacted(settings, config) }, "starting");
  const signalled = untilSignal();
  const starting = startAgent(config, log);
  // A start waits for the control plane as long as it takes, but not for longer than anybody wants it.
  const agent = await Promise.race([starting, signalled.then(() => undefined)]);
  if (agent) log.info({ hostId: agent.hostId() }, "started");
  const signal = await signalled;
  log.info(
    { signal },
    config.drainSeconds > 0 ? "stopping after a drain" : "stopping, running work is left to its shims",
  );
  await agent?.stop();
  log.info("stopped");
  return 0;
};

/** A refusal by name (a used token, a wrong pin) is a person's to mend, like a setting. */
const isForPeople = (error: unknown): error is Error =>
  error instanceof ConfigError || error instanceof RenderplaneError;

export const main = async (): Promise<never> => {
  process.exitCode = await run().catch((error: unknown) => {
    process.stderr.write(
      isForPeople(error) ? `${error.message}\n` : `${error instanceof Error ? error.stack : String(error)}\n`,
    );
    return isForPeople(error) ? 2 : 1;
  });
  // A part that was left behind at the deadline must not keep the process.
  process.exit();
};

if (import.meta.main) await main();
