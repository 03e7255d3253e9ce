// Revokes one certificate of a host, for instance the copy that was seen somewhere else; the host itself stays with its others.
// The edge for agents ends the streams that were opened with it; the bell hurries that.
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import type { HostRow } from "../domain/records.ts";
import { appendEvents } from "../store/events.ts";
import { revokeCertificateRow } from "../store/identities.ts";
import type { Context } from "./context.ts";
import { lockFound } from "./set-intent.ts";

/** Throws host_not_found, not_found. */
export const revokeCertificate = async (
  ctx: Context,
  r: { readonly host: string; readonly serial: string; readonly reason: string; readonly by: string },
): Promise<HostRow> => {
  const host = await ctx.db.transaction(async (tx) => {
    const held = await lockFound(tx, r.host);
    if (!(await revokeCertificateRow(tx, held.id, r.serial)))
      throw new RenderplaneError("not_found", `Host ${held.name} has no certificate ${r.serial}.`, {
        next: `GET /api/v1/hosts/${held.name} lists its certificates (renderplane host view ${held.name}).`,
      });
    const body = { name: held.name, serial: r.serial, reason: r.reason, by: r.by };
    await appendEvents(tx, [{ type: "host.certificate_revoked", hostId: held.id, body }]);
    return held;
  });
  ctx.bus.ring(`host:${host.id}`);
  ctx.bus.ring("events");
  ctx.log.warn({ host: host.id, serial: r.serial, by: r.by }, "certificate revoked");
  return host;
};
