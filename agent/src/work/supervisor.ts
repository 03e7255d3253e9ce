// Holds all attempts of this host: answers offers, starts, stops, renews, adopts after a restart, and hands results over.
// Every attempt is in one state, and its folder says which:
//   accepted  spec.json            waits for Start; forgotten after one lease without it
//   running   + started            runAttempt is at work (from a Start, a CONTINUE, or an adoption with a trusted lease)
//   waiting   + started            found at start with a lease that is not trusted any more: nothing new is begun before a verdict
//   ended     + result.json        the result is repeated until the control plane answers; then the folder goes
// Keeps: past its trusted time no attempt works on; a lost lease is never reported; one offer is considered at a time.
import {
  type CompleteRequest,
  type Offer,
  Outcome,
  Refusal,
  StopReason,
  VerdictAction,
} from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import type { Inventory } from "@renderplane/proto/gen/renderplane/v1/types.ts";
import type { FailureClass } from "@renderplane/proto/kernel/failure.ts";
import { defaultTimings, type Timings } from "@renderplane/proto/kernel/limits.ts";
import type { Lifetime } from "@renderplane/proto/kernel/process/lifecycle.ts";
import type { Logger } from "@renderplane/proto/kernel/process/logger.ts";
import { rhythm } from "@renderplane/proto/kernel/process/rhythm.ts";
import { isDiskFull } from "../domain/errno.ts";
import { renewed, trustedUntilMs } from "../domain/trust.ts";
import { takeOffer } from "./admission.ts";
import type { Artifacts } from "./artifacts.ts";
import { type AttemptEnd, runAttempt, type StopCause } from "./attempt.ts";
import type { ArtifactCache } from "./cache.ts";
import { createCompletions } from "./completions.ts";
import type { ControlPlane, StageKind, Supervisor } from "./contract.ts";
import { type Entry, heldOf } from "./entry.ts";
import type { Host } from "./host.ts";
import { restoreAttempts, shortResult } from "./restore.ts";
import type { Programs } from "./stage-context.ts";

export type SupervisorOptions = {
  readonly host: Host;
  /** The agent's state folder, absolute. */
  readonly dir: string;
  readonly kinds: readonly StageKind[];
  readonly inventory: Inventory;
  readonly programs: Programs;
  readonly control: ControlPlane;
  readonly artifacts: Artifacts;
  readonly cache: ArtifactCache;
  readonly timings?: Timings;
  readonly transferPatienceMs?: number;
  /** Moves finished attempts to kept/ instead of removing them: for benchmarks and for looking at what was run. */
  readonly keepAttempts?: boolean;
  readonly log: Logger;
};

/** The longest sleep of the trust loop; with nothing held it costs one timer a minute. */
const idleTrustMs = 60_000;
const minTrustMs = 20;
/** Past its trusted time nothing may run on, so a fault of the loop is not slept over. */
const trustRetryMs = 1_000;

export const createSupervisor = (options: SupervisorOptions): Supervisor & Lifetime => {
  const { control, log, dir, host } = options;
  const timings = options.timings ?? defaultTimings;
  const kinds = new Map(options.kinds.map((kind) => [kind.kind, kind]));
  const { bootId } = host;
  const entries = new Map<string, Entry>();
  let offers = Promise.resolve();
  let isStopping = false;
  let sessionLeaseMs = timings.leaseMs;

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
  const completions = createCompletions({
    complete: control.complete,
    onAnswer: (attemptId, answer) => {
      const entry = entries.get(attemptId);
      if (entry) forget(entry, answer === "refused" ? "bury" : "remove");
    },
    log,
  });

  /** The result is on disk before it is sent. On a full disk the attempt's own files make room for it. */
  const report = (entry: Entry, request: CompleteRequest) => {
    entry.state = "ended";
    delete entry.run;
    try {
      try {
        entry.folder.writeResult(request);
      } catch (error) {
        if (!isDiskFull(error)) throw error;
        entry.folder.removeFiles();
        entry.folder.writeResult(request);
      }
      if (!options.keepAttempts) entry.folder.removeFiles();
    } catch (error) {
      log.error({ err: error, attempt_id: request.attemptId }, "result not journaled, it is sent from memory");
    }
    if (!isStopping) completions.add(request);
  };

  const onEnd = (entry: Entry, end: AttemptEnd) => {
    if (end.kind === "detached") return;
    if (end.kind === "discard") forget(entry);
    else report(entry, end.request);
  };

  /** What an earlier agent left running is ended before anybody hears that the attempt is over. */
  const giveUp = async (entry: Entry, failureClass: FailureClass, why: string) => {
    entry.state = "ended";
    await host
      .endMarked(entry.folder.root)
      .catch((error: unknown) => log.error({ err: error, attempt_id: entry.offer.attemptId }, "processes not ended"));
    // The lease may be lost meanwhile: then nothing is reported.
    if (entries.get(entry.offer.attemptId) !== entry) return;
    report(entry, shortResult(entry.offer, Outcome.OUTCOME_FAILED, failureClass, why));
  };

  const begin = (entry: Entry) => {
    const kind = kinds.get(entry.offer.kind);
    const attemptLog = log.child({ attempt_id: entry.offer.attemptId, stage: entry.offer.stage });
    try {
      if (!kind) throw new Error(`this agent cannot run the stage kind ${entry.offer.kind} any more`);
      const started = entry.folder.readStarted() ?? { bootId, atMs: host.nowMs() };
      entry.folder.writeStarted(started);
      entry.folder.writeLease(entry.lease.renewedMs);
      entry.state = "running";
      const run = runAttempt({
        ...options,
        spec: { offer: entry.offer, bootId },
        started,
        kind,
        folder: entry.folder,
        leaseLimitMs: entry.lease.leaseMs,
        killAfterMs: timings.killAfterMs,
        log: attemptLog,
      });
      entry.run = run;
      attemptLog.info({ job_id: entry.offer.jobId, kind: entry.offer.kind }, "attempt running");
      run.done.then(
        (end) => onEnd(entry, end),
        (error: unknown) => {
          attemptLog.error({ err: error }, "attempt failed in the agent itself");
          report(entry, shortResult(entry.offer, Outcome.OUTCOME_FAILED, "agent_bug", `The agent failed: ${error}`));
        },
      );
      trust.ring();
    } catch (error) {
      attemptLog.error({ err: error }, "attempt cannot go on");
      void giveUp(entry, isDiskFull(error) ? "disk_full" : "agent_bug", `The attempt did not start: ${error}`);
    }
  };

  const consider = async (offer: Offer) => {
    const answer = (accepted: boolean, refusal: Refusal, reason: string) =>
      control.answerOffer({ attemptId: offer.attemptId, fence: offer.fence, accepted, refusal, reason });
    const known = entries.get(offer.attemptId);
    // The same offer again (its answer was lost): the same answer.
    if (known?.offer.fence === offer.fence) return answer(true, Refusal.REFUSAL_UNSPECIFIED, "");
    if (known) return answer(false, Refusal.REFUSAL_ALREADY_HELD, `held under fence ${known.offer.fence}`);
    if (isStopping) return answer(false, Refusal.REFUSAL_DRAINING, "the agent is stopping");
    const held = [...entries.values()].filter((entry) => entry.state !== "ended");
    const taken = await takeOffer(offer, {
      ...options,
      kinds: new Set(kinds.keys()),
      held: held.flatMap((entry) => entry.offer.allocation ?? []),
    });
    if (!taken.ok) {
      log.info({ attempt_id: offer.attemptId, reason: taken.reason }, "offer refused");
      return answer(false, taken.refusal, taken.reason);
    }
    const { folder } = taken;
    const now = host.nowMs();
    // The accept renews the lease when it is committed, which is after this moment.
    const lease = { renewedMs: now, leaseMs: offer.leaseMs || sessionLeaseMs };
    entries.set(offer.attemptId, { offer, folder, heldSinceMs: now, lease, state: "accepted" });
    answer(true, Refusal.REFUSAL_UNSPECIFIED, "");
    trust.ring();
  };

  /** Ends an attempt in whatever state it is. Without a run its processes may still live under their shims. */
  const end = async (entry: Entry, cause: Extract<StopCause, "cancelled" | "lease_lost">) => {
    if (entry.state === "running") return entry.run?.stop(cause);
    if (entry.state === "ended") {
      if (cause === "cancelled") return completions.ring();
      completions.drop(entry.offer.attemptId);
      return forget(entry);
    }
    await host.endMarked(entry.folder.root);
    // Started, answered or forgotten while the sweep ran: the next heartbeat's answer repeats the stop.
    if (entries.get(entry.offer.attemptId) !== entry || entry.run) return;
    if (cause === "lease_lost") forget(entry);
    else report(entry, shortResult(entry.offer, Outcome.OUTCOME_CANCELLED));
  };

  const stopOne = (stop: { readonly attemptId: string; readonly fence: bigint; readonly reason: StopReason }) => {
    const isCancelled = stop.reason === StopReason.STOP_REASON_CANCELLED;
    const entry = entries.get(stop.attemptId);
    if (!entry && isCancelled) completions.disown(shortResult(stop, Outcome.OUTCOME_CANCELLED));
    if (!entry || entry.offer.fence !== stop.fence) return;
    log.info({ attempt_id: stop.attemptId, reason: stop.reason }, "attempt stopped from outside");
    const ending = end(entry, isCancelled ? "cancelled" : "lease_lost");
    ending.catch((error: unknown) => log.error({ err: error, attempt_id: stop.attemptId }, "attempt not stopped"));
  };

  /** `sentMs` on this process's performance clock; kept on the clock that survives a restart of the agent. */
  const renew = (entry: Entry, sentMs: number) => {
    const sentBootMs = host.nowMs() - (performance.now() - sentMs);
    const lease = renewed(entry.lease, entry.heldSinceMs, sentBootMs);
    if (lease === entry.lease) return;
    entry.lease = lease;
    if (entry.state !== "running") return;
    try {
      entry.folder.writeLease(lease.renewedMs);
    } catch (error) {
      log.warn({ err: error, attempt_id: entry.offer.attemptId }, "lease not written, the shim will end the work");
    }
  };

  const trust = rhythm({
    name: "trust",
    periodMs: idleTrustMs,
    turn: async () => {
      let nextMs = idleTrustMs;
      for (const entry of [...entries.values()]) {
        const untilMs =
          entry.state === "running"
            ? trustedUntilMs(entry.lease, timings.trustMarginMs)
            : entry.state === "accepted"
              ? entry.lease.renewedMs + entry.lease.leaseMs
              : Number.POSITIVE_INFINITY;
        const leftMs = untilMs - host.nowMs();
        if (leftMs > 0) nextMs = Math.min(nextMs, leftMs + 1);
        else if (entry.state === "running") entry.run?.stop("untrusted");
        else forget(entry);
      }
      return Math.max(minTrustMs, nextMs);
    },
    onError: (error) => log.error({ err: error }, "trust loop failed"),
    errorPauseMs: trustRetryMs,
  });

  return {
    name: "supervisor",
    start: async () => {
      const found = await restoreAttempts({ dir, host, log });
      for (const { offer, folder, result, started, renewedMs } of found) {
        const lease = { renewedMs, leaseMs: offer.leaseMs || sessionLeaseMs };
        const entry: Entry = { offer, folder, heldSinceMs: renewedMs, lease, state: started ? "waiting" : "accepted" };
        entries.set(offer.attemptId, entry);
        if (result) report(entry, result);
        else if (started && trustedUntilMs(lease, timings.trustMarginMs) > host.nowMs()) begin(entry);
      }
      await trust.start();
    },
    stop: async () => {
      isStopping = true;
      await offers;
      await trust.stop();
      completions.stop();
      const runs = [...entries.values()].flatMap((entry) => entry.run ?? []);
      for (const run of runs) run.detach();
      await Promise.allSettled(runs.map((run) => run.done));
    },
    held: () => [...entries.values()].map(heldOf),
    onHelloAck: (ack, sentAtMonoMs) => {
      if (ack.leaseMs > 0) sessionLeaseMs = ack.leaseMs;
      for (const verdict of ack.verdicts) {
        const entry = entries.get(verdict.attemptId);
        if (!entry || entry.offer.fence !== verdict.fence) continue;
        if (verdict.action === VerdictAction.VERDICT_ACTION_ABANDON)
          stopOne({ ...verdict, reason: StopReason.STOP_REASON_LEASE_LOST });
        if (verdict.action !== VerdictAction.VERDICT_ACTION_CONTINUE) continue;
        renew(entry, sentAtMonoMs);
        if (entry.state === "accepted" || entry.state === "waiting") begin(entry);
      }
      completions.ring();
    },
    onOffer: (offer) => {
      offers = offers
        .then(() => consider(offer))
        .catch((error: unknown) => log.error({ err: error, attempt_id: offer.attemptId }, "offer not considered"));
    },
    onStart: (start) => {
      const entry = entries.get(start.attemptId);
      if (entry?.state === "accepted" && entry.offer.fence === start.fence) begin(entry);
    },
    onStop: stopOne,
    onHeartbeatAck: (sentAtMonoMs, stops) => {
      for (const entry of entries.values()) renew(entry, sentAtMonoMs);
      for (const stop of stops) stopOne(stop);
    },
    onDisconnect: () => log.info({ held: entries.size }, "session lost, work goes on"),
  };
};
