// Reads the journal after a start: which attempts this host held, and what became of them while no agent was looking.
// A folder with a damaged record goes to dead/, so that one file never stops the rest; what is still certain of it is reported: its
// end when that one is whole, else that the work is lost. Processes that carry our marker without a readable folder are ended.
// After a reboot an attempt is over: its unsynced files may be hollow.
import { type CompleteRequest, Offer, Outcome } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
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
      log.error(
        { err: error, attempt_id: name },
        "attempt folder cannot be read, moved to dead/; check this host's disk",
      );
      const salvaged = await salvage(folder, host, log, String(error));
      if (salvaged) found.push(salvaged);
    }
  }
  const known = new Set(found.map((attempt) => attempt.folder.root));
  for (const folder of host.endStrangers(attemptsRoot(dir), known))
    log.warn({ folder }, "process without a journal ended");
  return found;
};

/** Puts a damaged folder away and, when it is certain whose it was, a fresh one with its end in its place. */
const salvage = async (
  folder: AttemptFolder,
  host: Host,
  log: Logger,
  why: string,
): Promise<RestoredAttempt | undefined> => {
  const result = attempting(log, "the end of a damaged attempt cannot be read either", folder.readResult);
  const whose = result ?? attempting(log, "nothing of a damaged attempt can be read", folder.whose);
  attempting(log, "attempt folder cannot be moved to dead/", folder.bury);
  if (!whose || folder.exists()) return undefined;
  await host.endMarked(folder.root);
  const offer: Offer = { ...Offer.decode(new Uint8Array()), attemptId: whose.attemptId, fence: whose.fence };
  const end = result ?? lostRecord(offer, why);
  attempting(log, "what is left of a damaged attempt is not journaled, it is sent from memory", () => {
    // The end first: a folder with an entry alone would be an attempt to go on with.
    folder.writeResult(end);
    folder.writeSpec({ offer, bootId: host.bootId });
  });
  return { offer, folder, started: true, renewedMs: host.nowMs(), result: end };
};

/** Tidying up: a full disk or a file in the way must not keep the agent from the attempts that it can read. */
const attempting = <T>(log: Logger, otherwise: string, act: () => T): T | undefined => {
  try {
    return act();
  } catch (error) {
    log.error({ err: error }, otherwise);
    return undefined;
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

const lostRecord = (offer: Offer, why: string): CompleteRequest =>
  shortResult(
    offer,
    Outcome.OUTCOME_FAILED,
    "host_fault",
    `This host's record of the attempt is damaged (${why}), so its work is lost. Check the disk of the host.`,
  );
