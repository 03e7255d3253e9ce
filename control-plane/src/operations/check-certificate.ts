// Whether a host may still speak outside its stream. The stream itself is judged when it opens and at every heartbeat.
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { isCertificateGood } from "../store/identities.ts";
import type { Context } from "./context.ts";

/** Throws certificate_refused. */
export const checkCertificate = async (
  ctx: Context,
  r: { readonly hostId: string; readonly serial: string },
): Promise<void> => {
  if (await isCertificateGood(ctx.db.direct, r.serial, r.hostId)) return;
  throw new RenderplaneError(
    "certificate_refused",
    `the certificate of host ${r.hostId} was revoked, or not issued here; enrol the host again with a new join token`,
  );
};
