// A host opens its stream: a new epoch, and a verdict for every attempt that it still holds. What the database has as running
// there and the host does not hold is lost now, without waiting for the lease: the host itself said so. A host with nothing to judge
// costs one round trip, so that a herd that comes back is not the database's load.
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { oldestProtocol, protocolVersion } from "@renderplane/proto/kernel/limits.ts";
import { copyWindowMs, isCopied, returnsOf } from "../domain/identity.ts";
import { type Held, type HeldVerdict, judgeHeld } from "../domain/lease.ts";
import type { InventoryRecord } from "../domain/records.ts";
import { renewAttempts } from "../store/attempts.ts";
import { closeHostSession, type HostAttempt, openHostSession } from "../store/host-sessions.ts";
import { acceptOffers } from "./accept-offer.ts";
import { certificateRefused, quarantineIfCopied } from "./check-certificate.ts";
import type { Context } from "./context.ts";
import { finishAttempts } from "./finish-attempt.ts";
import { quarantineCopy } from "./quarantine-copy.ts";

export type SessionRequest = {
  readonly hostId: string;
  readonly serial: string;
  readonly instanceId: string;
  readonly agentVersion: string;
  readonly protocolMin: number;
  readonly protocolMax: number;
  readonly inventory: InventoryRecord;
  readonly attempts: readonly Held[];
};

/** Throws certificate_refused, protocol_unsupported. */
export const openSession = async (
  ctx: Context,
  r: SessionRequest,
): Promise<{ epoch: bigint; verdicts: HeldVerdict[] }> => {
  if (r.protocolMin > protocolVersion || r.protocolMax < oldestProtocol)
    throw new RenderplaneError(
      "protocol_unsupported",
      `the agent speaks protocol ${r.protocolMin} to ${r.protocolMax}, this control plane speaks ${oldestProtocol} to ${protocolVersion}; upgrade the older one`,
    );
  const opened = await openHostSession(ctx.db.direct, {
    ...r,
    replica: ctx.replica,
    windowMs: copyWindowMs,
    heldIds: r.attempts.map((held) => held.attemptId),
  });
  const { epoch } = opened;
  if (epoch === undefined) {
    await quarantineIfCopied(ctx, r, opened.standing);
    throw certificateRefused(r.hostId, opened.standing);
  }
  if (isCopied(opened.instances)) return refuseCopy(ctx, { hostId: r.hostId, epoch }, opened.instances);
  const verdicts = await judgeAll(ctx, r, epoch, opened.attempts);
  await loseUnheld(ctx, r, opened.attempts);
  ctx.bus.ring("ready");
  ctx.bus.ring("events");
  return { epoch, verdicts };
};

/** Neither of the two goes on; the other stream ends at the bell, by its older epoch or by its certificate. */
const refuseCopy = async (
  ctx: Context,
  r: { hostId: string; epoch: bigint },
  instances: readonly string[],
): Promise<never> => {
  const detail = `${new Set(instances).size} starts of an agent took turns, ${returnsOf(instances)} times within a short time`;
  await quarantineCopy(ctx, r.hostId, { rule: "instances_take_turns", detail });
  await closeHostSession(ctx.db.direct, { ...r, saidGoodbye: false });
  throw certificateRefused(r.hostId, "copied");
};

const judgeAll = async (
  ctx: Context,
  r: SessionRequest,
  epoch: bigint,
  attempts: readonly HostAttempt[],
): Promise<HeldVerdict[]> => {
  const known = new Map(attempts.map((attempt) => [attempt.id, attempt]));
  const verdicts = r.attempts.map((held) => judgeHeld(held, known.get(held.attemptId)));
  const kept = verdicts.filter((v) => v.action === "continue");
  if (kept.length === 0) return verdicts;
  const onSession = kept.map(({ attemptId, fence }) => ({ hostId: r.hostId, epoch, attemptId, fence }));
  // The accept may have been lost with the stream; the host's journal says that it took the offer.
  const accepted = await acceptOffers(ctx, onSession);
  const ours = onSession.filter((_, i) => accepted[i]);
  if (ours.length > 0)
    await renewAttempts(
      ctx.db.direct,
      ours.map((held) => ({ ...held, progress: 0, step: "", etaMs: null })),
      ctx.timings.leaseMs,
    );
  const isOurs = new Set(ours.map((held) => held.attemptId));
  return verdicts.map((v) => (v.action === "continue" && !isOurs.has(v.attemptId) ? { ...v, action: "abandon" } : v));
};

/**
 * What was live when this session opened: what begins under a later epoch, while this Hello is still being answered, is not this
 * Hello's to judge.
 */
const loseUnheld = async (ctx: Context, r: SessionRequest, attempts: readonly HostAttempt[]): Promise<void> => {
  const held = new Set(r.attempts.map((a) => a.attemptId));
  // An offer that the host never journaled is sent again by this session.
  const lost = attempts.filter((attempt) => attempt.state === "running" && !held.has(attempt.id));
  if (lost.length === 0) return;
  await finishAttempts(
    ctx,
    lost.map((attempt) => ({
      attemptId: attempt.id,
      fence: attempt.fence,
      hostId: null,
      outcome: "lost" as const,
      result: {},
      outputs: [],
      failure: null,
      usage: [],
    })),
  );
};
