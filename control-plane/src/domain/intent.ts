// What people want of a host, and which wish may follow which: one table. Presence and grade are other facts (presence.ts).
// Nothing here stops work that runs: a host that is not open gets no offers, a draining one gives back what is left at its
// deadline. Only a release leaves quarantine, and nothing leaves revocation: both are said in the refusal.
import type { HostIntent } from "./records.ts";

export type IntentAct = "cordon" | "uncordon" | "drain" | "maintenance" | "quarantine" | "release" | "revoke";

type Row = { readonly to: HostIntent; readonly from: readonly HostIntent[] };
const inService: readonly HostIntent[] = ["open", "cordoned", "draining", "maintenance"];

export const intentActs = {
  cordon: { to: "cordoned", from: inService },
  uncordon: { to: "open", from: inService },
  drain: { to: "draining", from: inService },
  maintenance: { to: "maintenance", from: inService },
  quarantine: { to: "quarantined", from: [...inService, "quarantined"] },
  release: { to: "open", from: ["quarantined"] },
  revoke: { to: "revoked", from: [...inService, "quarantined", "revoked"] },
} as const satisfies { readonly [A in IntentAct]: Row };

export type IntentVerdict =
  | { readonly ok: true; readonly to: HostIntent }
  | { readonly ok: false; readonly reason: string };

export const judgeIntent = (name: string, now: HostIntent, act: IntentAct): IntentVerdict => {
  const row: Row = intentActs[act];
  if (row.from.includes(now)) return { ok: true, to: row.to };
  if (now === "revoked")
    return {
      ok: false,
      reason: `host ${name} is revoked for good; remove it and enrol it again with a new join token`,
    };
  if (now === "quarantined") return { ok: false, reason: `host ${name} is quarantined; release it first` };
  return { ok: false, reason: `host ${name} is ${now}, not quarantined; there is nothing to release` };
};
