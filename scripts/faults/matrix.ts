// The matrix: every fault of the reliability design that the product can have today, by the room that it strikes.
import type { FaultCase } from "./case.ts";
import { agentCases } from "./cases/agent.ts";
import { hostCases } from "./cases/host.ts";
import { identityCases } from "./cases/identity.ts";
import { loadCases } from "./cases/load.ts";
import { messageCases } from "./cases/messages.ts";
import { networkCases } from "./cases/network.ts";
import { outsideCases } from "./cases/outside.ts";
import { replicaCases } from "./cases/replica.ts";

const numberOf = (fault: FaultCase): number => Number(fault.faults[0]?.slice(1));

/** In the order of their numbers. */
export const allCases: readonly FaultCase[] = [
  ...agentCases,
  ...replicaCases,
  ...networkCases,
  ...outsideCases,
  ...hostCases,
  ...messageCases,
  ...identityCases,
  ...loadCases,
].sort((a, b) => numberOf(a) - numberOf(b));

/** What the matrix names and this suite does not do. */
export const notCovered: readonly { readonly faults: string; readonly why: string }[] = [
  {
    faults: "F25, F26",
    why: "about PGlite, which is not used; the folder lock of the packaged PostgreSQL has tests of its own.",
  },
  {
    faults: "F28",
    why: "a full disk under PostgreSQL ends the server; F21 and F22 show what follows, the disk itself is not filled.",
  },
  { faults: "F36", why: "GPUs are not on this kind of machine; the inventory's own tests use a fake one." },
  { faults: "F45, F49–F53", why: "commands and terminals are not there yet." },
  {
    faults: "F56, F57",
    why: "budgets of tenants are not there yet; the limit of one job is invariant I8 in every case.",
  },
  { faults: "F60", why: "webhooks are not there yet." },
];
