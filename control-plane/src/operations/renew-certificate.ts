// A new certificate for a host that still holds a valid one. The old one stays good for a while, and for as long as the new one was
// never used, so that an answer that gets lost locks nobody out. Shown after that it is a copy (check-certificate.ts).

import { lockHost } from "../store/hosts.ts";
import { insertCertificate, readStanding, supersedeCertificates } from "../store/identities.ts";
import { certificateRefused, quarantineIfCopied } from "./check-certificate.ts";
import type { Context } from "./context.ts";

/** Throws certificate_refused. */
export const renewCertificate = async (
  ctx: Context,
  r: { readonly hostId: string; readonly serial: string; readonly csr: Uint8Array },
): Promise<{ certificate: string; authorities: string }> => {
  const signed = await ctx.authority.signHost(r.csr, r.hostId);
  const standing = await ctx.db.transaction(async (tx) => {
    // A revocation holds this row too: it comes before, and is seen, or after, and finds the new certificate.
    await lockHost(tx, r.hostId);
    const found = await readStanding(tx, r.serial, r.hostId);
    if (found !== "good") return found;
    await insertCertificate(tx, {
      serial: signed.serial,
      hostId: r.hostId,
      publicKeySha256: signed.publicKeySha256,
      pem: signed.certificate,
      expiresAt: signed.expiresAt,
    });
    await supersedeCertificates(tx, r.hostId, signed.serial);
    return found;
  });
  if (standing !== "good") {
    await quarantineIfCopied(ctx, r, standing);
    throw certificateRefused(r.hostId, standing);
  }
  ctx.log.info({ host: r.hostId, serial: signed.serial }, "certificate renewed");
  return { certificate: signed.certificate, authorities: ctx.authority.authorities };
};
