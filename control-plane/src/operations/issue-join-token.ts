// Makes a join token: shown once, kept as a hash, good for a short time and a number of uses.
import { makeJoinToken } from "../identity/join-token.ts";
import { insertJoinToken } from "../store/identities.ts";
import type { Context } from "./context.ts";

export const issueJoinToken = async (
  ctx: Context,
  o: { readonly ttlMs: number; readonly maxUses: number },
): Promise<{ token: string; expiresAt: Date }> => {
  const made = makeJoinToken(ctx.authority.pin);
  const expiresAt = await insertJoinToken(ctx.db.direct, {
    id: made.id,
    secretSha256: made.secretSha256,
    maxUses: o.maxUses,
    ttlMs: o.ttlMs,
  });
  ctx.log.info({ tokenId: made.id, expiresAt, maxUses: o.maxUses }, "join token issued");
  return { token: made.token, expiresAt };
};
