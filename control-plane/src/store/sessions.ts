// Which sessions are the newest of their hosts; an older one must not act any more.
import type { Tx } from "./database.ts";

/** Those that are current, as "<host id>/<epoch>". */
export const currentSessions = async (
  tx: Tx,
  sessions: readonly { readonly hostId: string; readonly epoch: bigint }[],
): Promise<ReadonlySet<string>> =>
  new Set(
    (
      await tx.query<{ name: string }>(
        `select h.id || '/' || h.epoch as name from unnest($1::text[], $2::bigint[]) as s(id, epoch) join hosts h using (id, epoch) where h.intent <> 'revoked'`,
        [sessions.map((s) => s.hostId), sessions.map((s) => s.epoch)],
      )
    ).rows.map((row) => row.name),
  );
