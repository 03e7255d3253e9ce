// Holds all attempts of this host: answers offers, starts, stops, renews, adopts after a restart, and hands results over.
// Every attempt is in one state, and its folder says which:
//   accepted  spec.json            waits for Start; forgotten after one lease without it
//   running   + started            runAttempt is at work (from a Start, a CONTINUE, or an adoption with a trusted lease)
//   waiting   + started            found at start with a lease that is not trusted any more: nothing new is begun before a verdict
//   ended     + result.json        the result is repeated until the control plane answers; then the folder goes (ends.ts)
// Keeps: past its trusted time no attempt works on; a lost lease is never reported; one offer is considered at a time; an agent that
// stood still begins and commits nothing before a heartbeat that it sent afterwards was acknowledged (stall.ts).
import { type Offer, Outcome, StopReason, VerdictAction } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import type { Inventory } from "@renderplane/proto/gen/renderplane/v1/types.ts";
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { defaultTimings, type Timings } from "@renderplane/proto/kernel/limits.ts";
import type { Lifetime } from "@renderplane/proto/kernel/process/lifecycle.ts";
import type { Logger } from "@renderplane/proto/kernel/process/logger.ts";
import { isDiskFull } from "../domain/errno.ts";
import { type Lease, marginOf, orphanLimitMs, renewed, trustedUntilMs } from "../domain/trust.ts";
import type { Artifacts } from "./artifacts.ts";
import { type AttemptEnd, runAttempt, type StopCause } from "./attempt.ts";
import type { ArtifactCache } from "./cache.ts";
import type { ControlPlane, StageKind, Supervisor } from "./contract.ts";
import { drain } from "./drain.ts";
import { createEnds, type JournalLimits } from "./ends.ts";
import { type Entry, heldOf } from "./entry.ts";
import type { Host } from "./host.ts";
import { considerOffers } from "./offers.ts";
import { restoreAttempts, shortResult } from "./restore.ts";
import type { Programs } from "./stage-context.ts";
import { createStallGuard } from "./stall.ts";
import { createTrustLoop } from "./trust-loop.ts";

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
  /** Without it every window follows from the lease that the control plane gives. */
  readonly timings?: Timings;
  readonly journalLimits?: JournalLimits;
  readonly transferPatienceMs?: number;
  /** Moves finished attempts to kept/ instead of removing them: for benchmarks and for looking at what was run. */
  readonly keepAttempts?: boolean;
  readonly log: Logger;
};

/** After TERM and KILL: for the end of the process to be seen and written down. */
const drainSlackMs = 2_000;

export type AgentSupervisor = Supervisor &
  Lifetime & {
    /** What heartbeats say of the agent itself. */
    pressure(): { readonly unacknowledgedEnds: number; readonly isDraining: boolean };
    /** Takes nothing more, waits, gives the rest back. The session must stay open meanwhile. */
    drain(limitMs: number): Promise<void>;
  };

export const createSupervisor = (options: SupervisorOptions): AgentSupervisor => {
  const { log, dir, host } = options;
  const timings = options.timings ?? defaultTimings;
  const kinds = new Map(options.kinds.map((kind) => [kind.kind, kind]));
  const { bootId } = host;
  const entries = new Map<string, Entry>();
  const stall = createStallGuard({ log });
  let offers = Promise.resolve();
  let refusing: "" | "the agent is stopping" | "the agent is draining" = "";
  let sessionLeaseMs = timings.leaseMs;

  /** Commits nothing for an attempt that may be somebody else's; callers repeat what is `unavailable`. */
  const confirmed =
    <Request, Response>(act: (request: Request) => Promise<Response>) =>
    async (request: Request): Promise<Response> => {
      if (stall.isStalled())
        throw new RenderplaneError("unavailable", "this agent stood still; it waits for an acknowledged heartbeat");
      return act(request);
    };
  const control: ControlPlane = {
    ...options.control,
    complete: confirmed(options.control.complete),
    placeOutputs: confirmed(options.control.placeOutputs),
  };
  const ends = createEnds({
    ...options,
    entries,
    complete: control.complete,
    ...(options.journalLimits ? { limits: options.journalLimits } : {}),
  });
  const { forget, report, giveUp } = ends;

  const marginMs = (lease: Lease) => options.timings?.trustMarginMs ?? marginOf(lease.leaseMs);
  const leaseOf = (offer: Offer, renewedMs: number): Lease => ({
    renewedMs,
    leaseMs: offer.leaseMs || sessionLeaseMs,
    trustedMs: offer.trustedMs,
  });

  const onEnd = (entry: Entry, end: AttemptEnd) => {
    if (end.kind === "detached") return;
    if (end.kind === "discard") forget(entry);
    else report(entry, end.request);
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
      delete entry.isStartDue;
      const run = runAttempt({
        ...options,
        control,
        spec: { offer: entry.offer, bootId },
        started,
        kind,
        folder: entry.folder,
        leaseLimitMs: orphanLimitMs(entry.lease, marginMs(entry.lease)),
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

  const consider = considerOffers({
    ...options,
    kinds: new Set(kinds.keys()),
    entries,
    refusing: () => refusing,
    fullness: ends.fullness,
    leaseOf,
    onTaken: () => trust.ring(),
  });

  /** Ends an attempt in whatever state it is. Without a run its processes may still live under their shims. */
  const end = async (entry: Entry, cause: Extract<StopCause, "cancelled" | "lease_lost" | "given_back">) => {
    if (entry.state === "running") return entry.run?.stop(cause);
    if (entry.state === "ended") {
      if (cause !== "lease_lost") return ends.ring();
      ends.drop(entry.offer.attemptId);
      return forget(entry);
    }
    await host.endMarked(entry.folder.root);
    // Started, answered or forgotten while the sweep ran: the next heartbeat's answer repeats the stop.
    if (entries.get(entry.offer.attemptId) !== entry || entry.run) return;
    if (cause === "lease_lost") forget(entry);
    else report(entry, shortResult(entry.offer, outcomeOf[cause]));
  };

  const stopOne = (stop: { readonly attemptId: string; readonly fence: bigint; readonly reason: StopReason }) => {
    const cause = causeOf(stop.reason);
    const entry = entries.get(stop.attemptId);
    if (!entry && cause !== "lease_lost") ends.disown(shortResult(stop, outcomeOf[cause]));
    if (!entry || entry.offer.fence !== stop.fence) return;
    log.info({ attempt_id: stop.attemptId, reason: stop.reason }, "attempt stopped from outside");
    endLogged(entry, cause);
  };
  const endLogged = (entry: Entry, cause: Parameters<typeof end>[1]) => {
    const { attemptId } = entry.offer;
    end(entry, cause).catch((error: unknown) =>
      log.error({ err: error, attempt_id: attemptId }, "attempt not stopped"),
    );
  };

  /** The first word from the other side after a gap of our own: what waited for it goes on. */
  const confirm = (sentMs: number) => {
    if (!stall.confirm(sentMs)) return;
    log.info("confirmed after standing still");
    for (const entry of entries.values()) if (entry.isStartDue && entry.state === "accepted") begin(entry);
    ends.ring();
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

  const trust = createTrustLoop({ entries, nowMs: host.nowMs, marginMs, forget: (entry) => forget(entry), log });

  return {
    name: "supervisor",
    start: async () => {
      const found = await restoreAttempts({ dir, host, log });
      for (const { offer, folder, result, started, renewedMs } of found) {
        const lease = leaseOf(offer, renewedMs);
        const entry: Entry = { offer, folder, heldSinceMs: renewedMs, lease, state: started ? "waiting" : "accepted" };
        entries.set(offer.attemptId, entry);
        if (result) report(entry, result);
        else if (started && trustedUntilMs(lease, marginMs(lease)) > host.nowMs()) begin(entry);
      }
      ends.holdReserve();
      await Promise.all([trust.start(), stall.start()]);
    },
    stop: async () => {
      refusing = "the agent is stopping";
      await offers;
      await Promise.all([trust.stop(), stall.stop()]);
      ends.stop();
      const runs = [...entries.values()].flatMap((entry) => entry.run ?? []);
      for (const run of runs) run.detach();
      await Promise.allSettled(runs.map((run) => run.done));
    },
    pressure: () => ({ unacknowledgedEnds: ends.waiting().ends, isDraining: refusing !== "" }),
    drain: async (limitMs) => {
      if (refusing !== "") return;
      refusing = "the agent is draining";
      await offers;
      const giveBackMs = timings.killAfterMs + drainSlackMs;
      await drain({ entries, limitMs, giveBackMs, giveBack: (entry) => endLogged(entry, "given_back"), log });
    },
    held: () => [...entries.values()].map(heldOf),
    onHelloAck: (ack, sentAtMonoMs) => {
      if (ack.leaseMs > 0) sessionLeaseMs = ack.leaseMs;
      stall.arm(ack.heartbeatMs || timings.heartbeatMs);
      for (const verdict of ack.verdicts) {
        const entry = entries.get(verdict.attemptId);
        if (!entry || entry.offer.fence !== verdict.fence) continue;
        if (verdict.action === VerdictAction.VERDICT_ACTION_ABANDON)
          stopOne({ ...verdict, reason: StopReason.STOP_REASON_LEASE_LOST });
        if (verdict.action !== VerdictAction.VERDICT_ACTION_CONTINUE) continue;
        renew(entry, sentAtMonoMs);
        if (entry.state === "accepted" || entry.state === "waiting") begin(entry);
      }
      // After the verdicts: what is not ours any more must not begin.
      confirm(sentAtMonoMs);
      ends.ring();
    },
    onOffer: (offer) => {
      offers = offers
        .then(() => consider(offer))
        .catch((error: unknown) => log.error({ err: error, attempt_id: offer.attemptId }, "offer not considered"));
    },
    onStart: (start) => {
      const entry = entries.get(start.attemptId);
      if (entry?.state !== "accepted" || entry.offer.fence !== start.fence) return;
      if (stall.isStalled()) entry.isStartDue = true;
      else begin(entry);
    },
    onStop: stopOne,
    onHeartbeatAck: (sentAtMonoMs, stops) => {
      for (const stop of stops) stopOne(stop);
      confirm(sentAtMonoMs);
      for (const entry of entries.values()) renew(entry, sentAtMonoMs);
    },
    onDisconnect: () => log.info({ held: entries.size }, "session lost, work goes on"),
  };
};

const causeOf = (reason: StopReason): "cancelled" | "lease_lost" | "given_back" =>
  reason === StopReason.STOP_REASON_CANCELLED
    ? "cancelled"
    : reason === StopReason.STOP_REASON_GIVE_BACK
      ? "given_back"
      : "lease_lost";
/** How an attempt that was stopped without a run of its own is reported. */
const outcomeOf = { cancelled: Outcome.OUTCOME_CANCELLED, given_back: Outcome.OUTCOME_INTERRUPTED } as const;
