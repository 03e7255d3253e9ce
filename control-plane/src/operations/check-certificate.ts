// Whether a host may still speak outside its stream. The stream itself is judged when it opens and while it is open.
// Expiry is not looked at: the handshake judged it, and a connection may outlive it. A certificate that was replaced and is shown
// again is a copy, and quarantines its host.
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { readStanding, refusalOf, type Standing } from "../store/identities.ts";
import type { Context } from "./context.ts";
import { quarantineCopy } from "./quarantine-copy.ts";

/** Throws certificate_refused. */
export const checkCertificate = async (
  ctx: Context,
  r: { readonly hostId: string; readonly serial: string },
): Promise<void> => {
  const standing = await readStanding(ctx.db.direct, r.serial, r.hostId);
  if (standing === "good" || standing === "expired") return;
  await quarantineIfCopied(ctx, r, standing);
  throw certificateRefused(r.hostId, standing);
};

/** A superseded certificate that is shown is the sign of a copied identity. */
export const quarantineIfCopied = async (
  ctx: Context,
  r: { readonly hostId: string; readonly serial: string },
  standing: Standing,
): Promise<void> => {
  if (standing !== "superseded") return;
  await quarantineCopy(ctx, r.hostId, {
    rule: "superseded_certificate",
    detail: `certificate ${r.serial} was replaced, and was shown after its successor had been used`,
  });
};

export const certificateRefused = (hostId: string, standing: Standing): RenderplaneError =>
  new RenderplaneError(
    "certificate_refused",
    `the certificate of host ${hostId} is not accepted: ${refusalOf(standing) ?? "the host was revoked"}; enrol the host again with a new join token`,
  );
