// One rhythm a replica for all its heartbeats: renews every lease in one statement, stores health in another, then acknowledges.
// An agent counts from the time it sent the heartbeat that was acknowledged, so no acknowledgement is always the safe answer:
// while the database is away heartbeats wait here, streams stay open, and agents count down by themselves.
import type { HeartbeatAck } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import type { Timings } from "@renderplane/proto/kernel/limits.ts";
import type { Logger } from "@renderplane/proto/kernel/process/logger.ts";
import { type Rhythm, rhythm } from "@renderplane/proto/kernel/process/rhythm.ts";
import { cleanText, stopMessage } from "./convert.ts";
import type { LiveSession, LiveSessions } from "./live-session.ts";
import type { GrpcOperations, RenewalRecord, StopRecord } from "./operations.ts";
import type { Pressure } from "./pressure.ts";
import { superseded } from "./watch.ts";

/** Heartbeats that arrive within this time share a statement; small against a lease, large against a round trip. */
const batchMs = 250;
/** Under pressure heartbeats are asked for this much more seldom. */
const pressureStretch = 2;

export const createRenewal = (parts: {
  readonly sessions: LiveSessions;
  readonly operations: Pick<GrpcOperations, "renewLeases" | "recordHealth">;
  readonly timings: Timings;
  readonly log: Logger;
  readonly pressure: Pick<Pressure, "isHigh" | "storeTook">;
  /** A host that takes nothing of what waits for it this long is cut off. */
  readonly blockedLimitMs: number;
  /** The store says that this session is not the host's any more. */
  judge(session: LiveSession, otherwise: RenderplaneError): void;
  /** Called every turn: what was held back for its rate goes out. */
  readonly flushProgress: () => void;
}): Rhythm => {
  const { sessions, operations, timings, log } = parts;
  const periodMs = Math.max(10, Math.min(batchMs, timings.heartbeatMs / 10));

  const turn = async () => {
    parts.flushProgress();
    const due: Due[] = [];
    for (const session of sessions.byHost.values()) {
      if (session.blockedMs() > parts.blockedLimitMs) session.close(notReading());
      else if (session.heartbeat)
        due.push({ session, sequence: session.heartbeat.sequence, leases: leasesOf(session) });
    }
    if (due.length === 0) return;
    const leases = due.flatMap((one) => one.leases);
    const began = performance.now();
    const [renewed, current] = await Promise.all([
      leases.length === 0 ? new Set<string>() : operations.renewLeases(leases),
      operations.recordHealth(due.map(({ session: { hostId, epoch, health } }) => ({ hostId, epoch, health }))),
    ]);
    parts.pressure.storeTook(performance.now() - began);
    for (const { session, sequence, leases } of due) {
      if (sessions.byHost.get(session.hostId) !== session) continue;
      if (!current.has(session.hostId)) {
        parts.judge(session, superseded());
        continue;
      }
      // A newer heartbeat may have arrived meanwhile; it stays due.
      if (session.heartbeat?.sequence === sequence) session.heartbeat = undefined;
      const lost = leases
        .filter(({ attemptId }) => !renewed.has(attemptId) && !session.attempts.get(attemptId)?.hasEnded)
        .map(({ attemptId, fence }): StopRecord => ({ attemptId, fence, reason: "lease_lost" }));
      session.send({ $case: "heartbeatAck", value: ackOf(session, sequence, lost) }, "ack", "ack");
    }
  };
  /** The server may slow heartbeats down so that a replica sees about 1,000 a second, never so far that a lease is at risk. */
  const nextHeartbeatMs = () =>
    Math.min(
      timings.leaseMs / 3,
      Math.max(timings.heartbeatMs, sessions.byHost.size) * (parts.pressure.isHigh() ? pressureStretch : 1),
    );

  const ackOf = (session: LiveSession, sequence: bigint, lost: readonly StopRecord[]): HeartbeatAck => {
    const stops = [...lost];
    for (const [attemptId, { stop, unnamed }] of session.attempts)
      if (stop && unnamed === 0 && !lost.some((other) => other.attemptId === attemptId)) stops.push(stop);
    return { sequence, nextHeartbeatMs: Math.round(nextHeartbeatMs()), stops: stops.map(stopMessage) };
  };

  return rhythm({
    name: "lease-renewal",
    periodMs,
    turn,
    errorPauseMs: Math.min(1000, timings.heartbeatMs),
    onError: (error) => log.warn({ err: error }, "leases could not be renewed; heartbeats wait"),
  });
};

type Due = {
  readonly session: LiveSession;
  readonly sequence: bigint;
  readonly leases: readonly RenewalRecord[];
};

/**
 * What is renewed: attempts that run or whose result still waits on the host. An accepted one has the lease of its offer until
 * the accept is committed, and one that was completed meanwhile has none to lose.
 */
const leasesOf = (session: LiveSession): RenewalRecord[] => {
  const leases: RenewalRecord[] = [];
  for (const { attemptId, fence, state } of session.heartbeat?.held ?? []) {
    const known = session.attempts.get(attemptId);
    if (state === "accepted" || known?.hasEnded) continue;
    const seen = known?.progress;
    leases.push({
      hostId: session.hostId,
      epoch: session.epoch,
      attemptId,
      fence,
      progress: seen ? fractionOf(seen.fraction) : 0,
      step: seen ? cleanText(seen.step) : "",
      etaMs: seen && seen.etaMs >= 0n ? seen.etaMs : null,
    });
  }
  return leases;
};

export const fractionOf = (value: number): number => (Number.isFinite(value) ? Math.min(1, Math.max(0, value)) : 0);

const notReading = (): RenderplaneError =>
  new RenderplaneError("unavailable", "the host does not read its messages; the session ends and may be resumed");
