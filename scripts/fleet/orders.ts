// What the process of simulated agents and its parent say to each other, as JSON over the pipe that fork gives them. The parent
// owns the scenario and the identities; the child owns the connections. If the parent goes, the child ends.
import type { Identity } from "../../agent/src/link/identity.ts";
import type { MeterJson } from "./meter.ts";
import type { HostProfile, Scenario } from "./scenario.ts";

export type AgentOrder = {
  readonly index: number;
  readonly name: string;
  readonly identity: Identity;
  readonly profile: HostProfile;
};

export type Order =
  /** More agents; they connect at once, all together. */
  | {
      readonly order: "open";
      readonly agents: readonly AgentOrder[];
      readonly addresses: readonly string[];
      readonly scenario: Scenario;
      readonly protocolMax?: number;
      /** Every offer is reported one by one, with the time of its arrival. */
      readonly isTraced?: boolean;
    }
  /** Hosts of this share of those that are on go away without a word; they stay away until `comeBack`. */
  | { readonly order: "vanish"; readonly names: readonly string[] }
  | { readonly order: "comeBack"; readonly names: readonly string[] }
  | { readonly order: "restart"; readonly names: readonly string[]; readonly keepsJournal: boolean }
  /** Changes how stages go from now on. */
  | { readonly order: "behave"; readonly scenario: Partial<Pick<Scenario, "durations" | "failures">> }
  | { readonly order: "forgetTimings" }
  | { readonly order: "running" }
  | { readonly order: "stop" };

export type OfferSeen = {
  readonly jobId: string;
  readonly stage: string;
  readonly atMs: number;
  readonly host: string;
};
export type Report =
  | { readonly report: "meter"; readonly meter: MeterJson; readonly cpuMs: number; readonly rssBytes: number }
  | { readonly report: "offers"; readonly offers: readonly OfferSeen[] }
  /** How many attempts run on each host that has any. */
  | { readonly report: "running"; readonly hosts: readonly (readonly [string, number])[] };
