// A host opens its stream: a new epoch, and a verdict for every attempt that it still holds. What the database has as running
// there and the host does not hold is lost now, without waiting for the lease: the host itself said so.
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { oldestProtocol, protocolVersion } from "@renderplane/proto/kernel/limits.ts";
import { type Held, type HeldVerdict, judgeHeld } from "../domain/lease.ts";
import type { AttemptRow, InventoryRecord } from "../domain/records.ts";
import { liveAttemptsOf, readAttempts, renewAttempts } from "../store/attempts.ts";
import { appendEvents } from "../store/events.ts";
import { openHostSession } from "../store/hosts.ts";
import { certificateRefusal } from "../store/identities.ts";
import { acceptIn } from "./accept-offer.ts";
import type { Context } from "./context.ts";
import { finishAttempt } from "./finish-attempt.ts";

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
  const session = await ctx.db.transaction(async (tx) => {
    const refusal = await certificateRefusal(tx, r.serial, r.hostId);
    const epoch = refusal ? undefined : await openHostSession(tx, { ...r, replica: ctx.replica });
    if (epoch === undefined)
      throw new RenderplaneError(
        "certificate_refused",
        `the certificate of host ${r.hostId} is not accepted: ${refusal ?? "it was revoked"}; enrol the host again with a new join token`,
      );
    await appendEvents(tx, [
      { type: "host.online", hostId: r.hostId, body: { epoch: String(epoch), agent_version: r.agentVersion } },
    ]);
    // Read here: what begins under a later epoch, while this Hello is still being answered, is not this Hello's to judge.
    return { epoch, live: await liveAttemptsOf(tx, r.hostId) };
  });
  const verdicts = await judgeAll(ctx, r, session.epoch);
  await loseUnheld(ctx, r, session.live);
  ctx.bus.ring("ready");
  ctx.bus.ring("events");
  return { epoch: session.epoch, verdicts };
};

const judgeAll = async (ctx: Context, r: SessionRequest, epoch: bigint): Promise<HeldVerdict[]> => {
  const known = new Map(
    (
      await readAttempts(
        ctx.db.direct,
        r.attempts.map((a) => a.attemptId),
      )
    ).map((a) => [a.id, a]),
  );
  const verdicts: HeldVerdict[] = [];
  for (const held of r.attempts) {
    const attempt = known.get(held.attemptId);
    let verdict = judgeHeld(held, attempt?.hostId === r.hostId ? attempt : undefined);
    if (verdict.action === "continue") {
      // The accept may have been lost with the stream; the host's journal says that it took the offer.
      const isOurs = await ctx.db.transaction((tx) =>
        acceptIn(ctx, tx, { hostId: r.hostId, epoch, attemptId: held.attemptId, fence: held.fence }),
      );
      if (!isOurs) verdict = { ...verdict, action: "abandon" };
    }
    verdicts.push(verdict);
  }
  const kept = verdicts.filter((v) => v.action === "continue");
  if (kept.length > 0)
    await renewAttempts(
      ctx.db.direct,
      kept.map((v) => ({
        hostId: r.hostId,
        epoch,
        attemptId: v.attemptId,
        fence: v.fence,
        progress: 0,
        step: "",
        etaMs: null,
      })),
      ctx.timings.leaseMs,
    );
  return verdicts;
};

const loseUnheld = async (ctx: Context, r: SessionRequest, live: readonly AttemptRow[]): Promise<void> => {
  const held = new Set(r.attempts.map((a) => a.attemptId));
  for (const attempt of live) {
    // An offer that the host never journaled is sent again by this session.
    if (attempt.state !== "running" || held.has(attempt.id)) continue;
    await finishAttempt(ctx, {
      attemptId: attempt.id,
      fence: attempt.fence,
      hostId: null,
      outcome: "lost",
      result: {},
      outputs: [],
      failure: null,
      usage: [],
    });
  }
};
