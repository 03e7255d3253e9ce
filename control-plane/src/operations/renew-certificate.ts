// A new certificate for a host that still holds a valid one. The old one stays good until it expires, so that an answer that
// gets lost locks nobody out.
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { certificateRefusal, insertCertificate } from "../store/identities.ts";
import type { Context } from "./context.ts";

/** Throws certificate_refused. */
export const renewCertificate = async (
  ctx: Context,
  r: { readonly hostId: string; readonly serial: string; readonly csr: Uint8Array },
): Promise<{ certificate: string; authorities: string }> => {
  const signed = await ctx.authority.signHost(r.csr, r.hostId);
  await ctx.db.transaction(async (tx) => {
    const refusal = await certificateRefusal(tx, r.serial, r.hostId);
    if (refusal)
      throw new RenderplaneError(
        "certificate_refused",
        `the certificate of host ${r.hostId} is not accepted: ${refusal}; enrol the host again`,
      );
    await insertCertificate(tx, {
      serial: signed.serial,
      hostId: r.hostId,
      publicKeySha256: signed.publicKeySha256,
      pem: signed.certificate,
      expiresAt: signed.expiresAt,
    });
  });
  ctx.log.info({ host: r.hostId, serial: signed.serial }, "certificate renewed");
  return { certificate: signed.certificate, authorities: ctx.authority.authorities };
};
