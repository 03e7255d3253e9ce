// Turns a join token and a CSR into a host with a certificate. Token use, host and certificate are one transaction.
// A repeat with the same key within ten minutes answers the same certificate: a lost answer must not burn a token.
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import type { InventoryRecord } from "../domain/records.ts";
import { isSecret, parseJoinToken } from "../identity/join-token.ts";
import type { Tx } from "../store/database.ts";
import { appendEvents } from "../store/events.ts";
import { insertHost } from "../store/hosts.ts";
import { insertCertificate, lockJoinToken, recentCertificate, useJoinToken } from "../store/identities.ts";
import type { Context } from "./context.ts";

const repeatWindowMs = 10 * 60_000;
const namePattern = /^[a-z0-9][a-z0-9.-]{0,62}$/;

export type Enrolled = { readonly hostId: string; readonly certificate: string; readonly authorities: string };

/** Throws token_unknown, token_expired, token_used, host_name_taken, invalid_request. */
export const enrolHost = async (
  ctx: Context,
  r: { readonly token: string; readonly csr: Uint8Array; readonly name: string; readonly inventory: InventoryRecord },
): Promise<Enrolled> => {
  const token = parseJoinToken(r.token);
  if (!namePattern.test(r.name))
    throw new RenderplaneError(
      "invalid_request",
      `name must be 1 to 63 of a-z, 0-9, dot and dash, got ${JSON.stringify(r.name.slice(0, 80))}; set RENDERPLANE_AGENT_NAME`,
    );
  const hostId = ctx.newId("h");
  const enrolled = await ctx.db.transaction(async (tx) => {
    const facts = await checkSecret(tx, token.id, token.secret);
    // Signing first tells the key, which tells a repeat from a second host; an unused certificate is never stored.
    const signed = await ctx.authority.signHost(r.csr, hostId);
    const repeat = await recentCertificate(tx, {
      name: r.name,
      publicKeySha256: signed.publicKeySha256,
      withinMs: repeatWindowMs,
    });
    if (repeat) return { hostId: repeat.hostId, certificate: repeat.pem, authorities: ctx.authority.authorities };
    if (facts.isUsedUp)
      throw new RenderplaneError(
        "token_used",
        "the join token has been used; make a new one with: npx renderplane host enroll-command",
      );
    if (facts.isExpired || facts.isRevoked)
      throw new RenderplaneError(
        "token_expired",
        "the join token has expired; make a new one with: npx renderplane host enroll-command",
      );
    if (!(await insertHost(tx, { id: hostId, name: r.name, inventory: r.inventory })))
      throw new RenderplaneError(
        "host_name_taken",
        `a host named ${r.name} is enrolled already; give this one another name with RENDERPLANE_AGENT_NAME, or remove the old one`,
      );
    await useJoinToken(tx, token.id);
    await insertCertificate(tx, {
      serial: signed.serial,
      hostId,
      publicKeySha256: signed.publicKeySha256,
      pem: signed.certificate,
      expiresAt: signed.expiresAt,
    });
    await appendEvents(tx, [{ type: "host.enrolled", hostId, body: { name: r.name, token_id: token.id } }]);
    return { hostId, certificate: signed.certificate, authorities: ctx.authority.authorities };
  });
  ctx.bus.ring("events");
  ctx.log.info({ host: enrolled.hostId, name: r.name, tokenId: token.id }, "host enrolled");
  return enrolled;
};

const checkSecret = async (tx: Tx, id: string, secret: string) => {
  const facts = await lockJoinToken(tx, id);
  if (!facts || !isSecret(secret, facts.secretSha256))
    throw new RenderplaneError(
      "token_unknown",
      "this control plane did not issue the join token; make one with: npx renderplane host enroll-command",
    );
  return facts;
};
