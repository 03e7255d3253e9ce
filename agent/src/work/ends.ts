// The ends of attempts on their way out: each is in the journal before it is sent, and its folder goes when it was answered.
// Owns the bound of what may wait unanswered and the space kept back for it; leaves the sending to completions.ts.
// Keeps: no end is ever dropped. A full disk costs files, then the reserve; a full journal costs offers (`isFull`), never ends.
import { CompleteRequest, Outcome } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import type { FailureClass } from "@renderplane/proto/kernel/failure.ts";
import type { Logger } from "@renderplane/proto/kernel/process/logger.ts";
import { isDiskFull } from "../domain/errno.ts";
import { createCompletions } from "./completions.ts";
import type { ControlPlane } from "./contract.ts";
import type { Entry } from "./entry.ts";
import type { Host } from "./host.ts";
import { createReserve } from "./reserve.ts";
import { shortResult } from "./restore.ts";

/** Ends that may wait unanswered: at these a control plane was away for hours, and more work would only be lost later. */
export type JournalLimits = { readonly ends: number; readonly bytes: number };
export const journalLimits: JournalLimits = { ends: 10_000, bytes: 64 * 1024 ** 2 };

export type Ends = ReturnType<typeof createEnds>;

export const createEnds = (options: {
  readonly dir: string;
  readonly entries: Map<string, Entry>;
  readonly complete: ControlPlane["complete"];
  readonly host: Pick<Host, "endMarked">;
  readonly keepAttempts?: boolean;
  readonly limits?: JournalLimits;
  readonly log: Logger;
}) => {
  const { entries, log, host } = options;
  const limits = options.limits ?? journalLimits;
  const reserve = createReserve(options.dir, log);
  let isStopping = false;

  const forget = (entry: Entry, how: "remove" | "bury" = "remove") => {
    entries.delete(entry.offer.attemptId);
    try {
      if (how === "bury") entry.folder.bury();
      else if (options.keepAttempts) entry.folder.keep();
      else entry.folder.remove();
    } catch (error) {
      log.error({ err: error, attempt_id: entry.offer.attemptId }, "attempt folder not removed");
    }
  };

  /** On a full disk the attempt's own files make room, then the space that was kept back for this. */
  const journal = (entry: Entry, request: CompleteRequest) => {
    const waysToMakeRoom = [entry.folder.removeFiles, reserve.release];
    for (;;) {
      try {
        return entry.folder.writeResult(request);
      } catch (error) {
        const makeRoom = isDiskFull(error) ? waysToMakeRoom.shift() : undefined;
        if (!makeRoom) throw error;
        makeRoom();
      }
    }
  };

  const completions = createCompletions({
    complete: options.complete,
    onAnswer: (attemptId, answer) => {
      const entry = entries.get(attemptId);
      if (entry) forget(entry, answer === "refused" ? "bury" : "remove");
    },
    onReplace: (replacement) => {
      const entry = entries.get(replacement.attemptId);
      if (!entry) return;
      try {
        const kept = entry.folder.setResultAside();
        journal(entry, replacement);
        log.error(
          { attempt_id: replacement.attemptId, kept },
          "a result was refused twice for its form and put away; report it with this file, and upgrade the older side",
        );
      } catch (error) {
        log.error({ err: error, attempt_id: replacement.attemptId }, "refused result not put away");
      }
    },
    log,
  });

  /** The result is on disk before it is sent. */
  const report = (entry: Entry, request: CompleteRequest) => {
    entry.state = "ended";
    entry.endBytes = CompleteRequest.encode(request).finish().length;
    delete entry.run;
    try {
      journal(entry, request);
      if (!options.keepAttempts) entry.folder.removeFiles();
      reserve.hold();
    } catch (error) {
      log.error({ err: error, attempt_id: request.attemptId }, "result not journaled, it is sent from memory");
    }
    if (!isStopping) completions.add(request);
  };

  const waiting = (): { readonly ends: number; readonly bytes: number } => {
    let [ends, bytes] = [0, 0];
    for (const entry of entries.values()) {
      if (entry.state !== "ended") continue;
      ends += 1;
      bytes += entry.endBytes ?? 0;
    }
    return { ends, bytes };
  };

  return {
    forget,
    report,
    waiting,
    /** Why no more work is taken, or undefined. */
    fullness: (): string | undefined => {
      const { ends, bytes } = waiting();
      if (ends < limits.ends && bytes < limits.bytes) return undefined;
      return `journal: ${ends} results of ${bytes} bytes are not acknowledged, at most ${limits.ends} and ${limits.bytes} bytes may be`;
    },
    /** What an earlier agent left running is ended before anybody hears that the attempt is over. */
    giveUp: async (entry: Entry, failureClass: FailureClass, why: string) => {
      entry.state = "ended";
      const notEnded = (error: unknown) =>
        log.error({ err: error, attempt_id: entry.offer.attemptId }, "processes not ended");
      await host.endMarked(entry.folder.root).catch(notEnded);
      // The lease may be lost meanwhile: then nothing is reported.
      if (entries.get(entry.offer.attemptId) !== entry) return;
      report(entry, shortResult(entry.offer, Outcome.OUTCOME_FAILED, failureClass, why));
    },
    holdReserve: reserve.hold,
    disown: completions.disown,
    drop: completions.drop,
    ring: completions.ring,
    stop: () => {
      isStopping = true;
      completions.stop();
    },
  };
};
