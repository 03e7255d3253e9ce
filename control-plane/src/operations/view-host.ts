// What operators read about hosts: the rows with their presence as it is now, one host with its sessions and certificates, and the
// pools that are held back. Nothing here changes anything.
import { type Presence, presenceOf } from "../domain/presence.ts";
import type { HostRow } from "../domain/records.ts";
import { type HostSessionRow, listHostSessions } from "../store/host-sessions.ts";
import { listHosts } from "../store/hosts.ts";
import { type CertificateRow, listCertificates } from "../store/identities.ts";
import type { Context } from "./context.ts";
import { found } from "./set-intent.ts";

export type HostView = HostRow & { readonly presence: Presence };
export type HostDetail = {
  readonly host: HostView;
  /** The newest first. */
  readonly sessions: readonly HostSessionRow[];
  readonly certificates: readonly CertificateRow[];
};

/** What an operator looks at when something is odd; the event log has the rest. */
const shown = 20;

const withPresence = (ctx: Context, host: HostRow): HostView => ({ ...host, presence: presenceOf(host, ctx.timings) });

export const viewHosts = async (ctx: Context): Promise<HostView[]> =>
  (await listHosts(ctx.db.direct)).map((host) => withPresence(ctx, host));

/** By id or name, revoked ones too. Throws host_not_found. */
export const viewHost = async (ctx: Context, idOrName: string): Promise<HostDetail> => {
  const host = await found(ctx.db.direct, idOrName);
  const [sessions, certificates] = await Promise.all([
    listHostSessions(ctx.db.direct, host.id, shown),
    listCertificates(ctx.db.direct, host.id, shown),
  ]);
  return { host: withPresence(ctx, host), sessions, certificates };
};
