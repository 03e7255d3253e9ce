// What a person wants of a host: cordon, uncordon, drain, maintenance, quarantine, release, revoke. One transaction writes the
// wish and the event that says who and why. Nothing is stopped here: placement reads the intent, the session of the host reads what
// is to be given back, and the edge for agents closes the streams of a revoked host; the bell only hurries them.
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { type IntentAct, judgeIntent } from "../domain/intent.ts";
import type { HostRow } from "../domain/records.ts";
import type { Tx } from "../store/database.ts";
import { appendEvents } from "../store/events.ts";
import { findHost, lockHost, setHostIntent } from "../store/hosts.ts";
import type { Context } from "./context.ts";

export type IntentRequest = {
  /** Id or name. */
  readonly host: string;
  readonly act: IntentAct;
  readonly reason: string;
  /** Who asks, in words. */
  readonly by: string;
  /** Drain only: when what still runs is given back, from now; absent: it may finish. */
  readonly giveBackAfterMs?: number;
};

const eventOf: { readonly [A in IntentAct]: string } = {
  cordon: "host.cordoned",
  uncordon: "host.opened",
  drain: "host.draining",
  maintenance: "host.maintenance",
  quarantine: "host.quarantined",
  release: "host.released",
  revoke: "host.revoked",
};

/** Throws host_not_found, host_conflict. A repeat that changes nothing writes nothing. */
export const setIntent = async (ctx: Context, r: IntentRequest): Promise<HostRow> => {
  const host = await ctx.db.transaction(async (tx) => {
    const before = await lockFound(tx, r.host);
    const verdict = judgeIntent(before.name, before.intent, r.act);
    if (!verdict.ok) throw new RenderplaneError("host_conflict", verdict.reason);
    const isRepeat = before.intent === verdict.to && before.intentReason === r.reason && r.act !== "drain";
    if (isRepeat) return before;
    await setHostIntent(tx, {
      hostId: before.id,
      intent: verdict.to,
      reason: r.reason,
      giveBackAfterMs: r.act === "drain" ? (r.giveBackAfterMs ?? null) : null,
      // A second word on a quarantined host does not make its identity whole.
      keepsCopied: r.act === "quarantine",
    });
    const after = (await lockHost(tx, before.id)) as HostRow;
    const deadline = after.drainUntil === null ? {} : { drain_until: after.drainUntil.toISOString() };
    const body = { name: before.name, from: before.intent, reason: r.reason, by: r.by, ...deadline };
    await appendEvents(tx, [{ type: eventOf[r.act], hostId: before.id, body }]);
    return after;
  });
  ctx.bus.ring(`host:${host.id}`);
  ctx.bus.ring("ready");
  ctx.bus.ring("events");
  ctx.log.info({ host: host.id, intent: host.intent, reason: r.reason, by: r.by }, "intent of a host set");
  return host;
};

/** By id or name. Throws host_not_found. */
export const found = async (tx: Tx, idOrName: string): Promise<HostRow> => {
  const host = await findHost(tx, idOrName);
  if (!host)
    throw new RenderplaneError("host_not_found", `There is no host ${idOrName}.`, {
      next: "GET /api/v1/hosts lists the hosts that exist (renderplane host list).",
    });
  return host;
};

export const lockFound = async (tx: Tx, idOrName: string): Promise<HostRow> => {
  const { id } = await found(tx, idOrName);
  return (await lockHost(tx, id)) ?? found(tx, id);
};
