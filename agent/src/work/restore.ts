// Reads the journal after a start: which attempts this host held, and what became of them while no agent was looking.
// Folders that cannot be read go to dead/, so that one damaged file never stops the rest; processes that carry our marker
// without a readable folder are ended. After a reboot an attempt is over: its unsynced files may be hollow.
import { type CompleteRequest, type Offer, Outcome } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import type { FailureClass } from "@renderplane/proto/kernel/failure.ts";
import type { Logger } from "@renderplane/proto/kernel/process/logger.ts";
import { type AttemptFolder, attemptFolder, attemptsRoot, finishRemovals, listAttempts } from "./folder.ts";
import type { Host } from "./host.ts";

export type RestoredAttempt = {
  readonly offer: Offer;
  readonly folder: AttemptFolder;
  readonly started: boolean;
  /** Monotonic time of the newest renewal that the last agent knew; now for an attempt that was never started. */
  readonly renewedMs: number;
  /** Already ended: to be reported. */
  readonly result: CompleteRequest | undefined;
};

export const restoreAttempts = async (options: {
  readonly dir: string;
  readonly host: Host;
  readonly log: Logger;
}): Promise<RestoredAttempt[]> => {
  const { dir, host, log } = options;
  const found: RestoredAttempt[] = [];
  attempting(log, "the removal of an ended attempt is not finished", () => finishRemovals(dir));
  for (const name of listAttempts(dir)) {
    const folder = attemptFolder(dir, name, host.disk);
    try {
      const { offer, bootId: acceptedIn } = folder.readSpec();
      const started = folder.isStarted();
      const result = folder.readResult() ?? (acceptedIn === host.bootId ? undefined : rebooted(offer, started));
      const renewedMs = started ? (folder.readLease() ?? folder.readStarted()?.atMs ?? 0) : host.nowMs();
      found.push({ offer, folder, started, renewedMs, result });
      log.info({ attempt_id: name, started, ended: result !== undefined }, "attempt found");
    } catch (error) {
      log.error({ err: error, attempt_id: name }, "attempt folder cannot be read, moved to dead/");
      attempting(log, "attempt folder cannot be moved to dead/", folder.bury);
    }
  }
  const known = new Set(found.map((attempt) => attempt.folder.root));
  for (const folder of host.endStrangers(attemptsRoot(dir), known))
    log.warn({ folder }, "process without a journal ended");
  return found;
};

/** Tidying up: a full disk or a file in the way must not keep the agent from the attempts that it can read. */
const attempting = (log: Logger, otherwise: string, act: () => void): void => {
  try {
    act();
  } catch (error) {
    log.error({ err: error }, otherwise);
  }
};

/** A result that the agent makes up itself: nothing was measured and nothing was made. */
export const shortResult = (
  offer: Pick<Offer, "attemptId" | "fence">,
  outcome: Outcome,
  failureClass?: FailureClass,
  message = "",
): CompleteRequest => ({
  attemptId: offer.attemptId,
  fence: offer.fence,
  outcome,
  result: "{}",
  outputs: [],
  failure: failureClass && { failureClass, message: message.slice(0, 2_000), evidence: "", exit: "" },
  usage: [],
  elapsedMs: 0n,
});

const rebooted = (offer: Offer, wasStarted: boolean): CompleteRequest =>
  wasStarted
    ? shortResult(offer, Outcome.OUTCOME_FAILED, "host_lost", "The host restarted while the stage was running.")
    : shortResult(offer, Outcome.OUTCOME_INTERRUPTED, "host_lost", "The host restarted before the stage was started.");
