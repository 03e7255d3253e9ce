// Whether a host is there, as we see it: a fact about its stream and its silence by the database's clock, never a guess from old
// health. It is not what people want of the host (intent) and not how well it works (grade). Being wrong towards "suspect" costs a
// host its next offer; nothing is taken away from it before its leases run out.
import type { Timings } from "@renderplane/proto/kernel/limits.ts";

export type Presence = "online" | "suspect" | "offline";

export const presenceOf = (
  host: { readonly replica: string | null; readonly silentMs: number | null },
  timings: Pick<Timings, "suspectMs" | "leaseMs" | "graceMs">,
): Presence => {
  if (host.replica === null || host.silentMs === null) return "offline";
  // Past this its leases are given away: a stream that is still open says nothing any more.
  if (host.silentMs > timings.leaseMs + timings.graceMs) return "offline";
  return host.silentMs > timings.suspectMs ? "suspect" : "online";
};

export type PresenceEvent = "host.suspect" | "host.back" | "host.offline";

/**
 * What is told when presence is not what was told last; undefined: nothing, and what was told stays as it is. A host that was told to
 * be gone and is heard once in a while is still gone. A session that opens tells host.online itself.
 */
export const presenceEvent = (told: Presence, now: Presence): PresenceEvent | undefined => {
  if (told === now) return undefined;
  if (now === "online") return "host.back";
  return now === "suspect" ? (told === "online" ? "host.suspect" : undefined) : "host.offline";
};
