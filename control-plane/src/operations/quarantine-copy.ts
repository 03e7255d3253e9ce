// The identity of a host was used by two agents: nobody can say which is the right one, so neither may go on. The host is
// quarantined in one transaction with its event; from then on its certificates are refused, and both streams end.
// What they ran is lost with its leases and runs elsewhere.
import { appendEvents } from "../store/events.ts";
import { markCopied } from "../store/hosts.ts";
import type { Context } from "./context.ts";

export type CopyEvidence = {
  /** Which of the two signs it was. */
  readonly rule: "instances_take_turns" | "superseded_certificate";
  readonly detail: string;
};

/** Once: a host that is quarantined as a copy, or revoked, stays as it is. */
export const quarantineCopy = async (ctx: Context, hostId: string, evidence: CopyEvidence): Promise<void> => {
  const isNew = await ctx.db.transaction(async (tx) => {
    const name = await markCopied(tx, hostId, `its identity was used by two agents: ${evidence.detail}`);
    if (name === undefined) return false;
    await appendEvents(tx, [{ type: "host.identity_copied", hostId, body: { name, ...evidence } }]);
    return true;
  });
  if (!isNew) return;
  ctx.bus.ring(`host:${hostId}`);
  ctx.bus.ring("events");
  ctx.log.error({ host: hostId, ...evidence }, "the identity of a host was copied; the host is quarantined");
};
