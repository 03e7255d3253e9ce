// The fleet as placement sees it at this moment: every host with what it holds, and the facts that are true for all of them. For
// those who only look (explain, estimates); the placer reads the same inside its transaction.

import { hourlyPrices } from "../domain/host-price.ts";
import { type Candidate, type FleetFacts, fleetFacts } from "../domain/placement.ts";
import type { Tx } from "../store/database.ts";
import { listHosts, liveAllocations } from "../store/hosts.ts";
import type { Context } from "./context.ts";

export type Fleet = { readonly candidates: readonly Candidate[]; readonly facts: FleetFacts };

export const readFleet = async (ctx: Context, tx: Tx): Promise<Fleet> => {
  const hosts = await listHosts(tx);
  const held = Map.groupBy(await liveAllocations(tx), (a) => a.hostId);
  const candidates = hosts.map((host) => ({ host, held: (held.get(host.id) ?? []).map((a) => a.allocation) }));
  const facts = fleetFacts(candidates, { suspectMs: ctx.timings.suspectMs, ...hourlyPrices(ctx.prices) });
  return { candidates, facts };
};
