// Renews every lease of this replica's hosts in one statement, so that database load grows with replicas and not with hosts.
import type { JsonObject } from "../domain/records.ts";
import { type Renewal, renewAttempts } from "../store/attempts.ts";
import { recordHealths } from "../store/hosts.ts";
import type { Context } from "./context.ts";

/** Answers the attempt ids that are still their host's; the others are lost and must stop. */
export const renewLeases = async (ctx: Context, held: readonly Renewal[]): Promise<ReadonlySet<string>> =>
  held.length === 0 ? new Set() : new Set(await renewAttempts(ctx.db.direct, held, ctx.timings.leaseMs));

/** Answers the hosts whose epoch is current; the streams of the others are superseded. */
export const recordHealth = async (
  ctx: Context,
  seen: readonly { readonly hostId: string; readonly epoch: bigint; readonly health: JsonObject }[],
): Promise<ReadonlySet<string>> => (seen.length === 0 ? new Set() : new Set(await recordHealths(ctx.db.direct, seen)));
