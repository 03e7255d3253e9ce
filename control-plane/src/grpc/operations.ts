// What the gRPC edge asks of the operations, bound to their context by the composition root (tests bind a fake).
// Shapes are records, not messages: numbers for bytes, undefined and null instead of protobuf's empty values.

import type { AttemptOutcome } from "@renderplane/proto/kernel/stage-state.ts";
import type { FailureRecord, InventoryRecord, JsonObject } from "../domain/records.ts";
import type { OfferRecord } from "../operations/take-offers.ts";

export type HeldRecord = {
  readonly attemptId: string;
  readonly fence: bigint;
  readonly state: "accepted" | "running" | "ended";
};
export type VerdictRecord = {
  readonly attemptId: string;
  readonly fence: bigint;
  readonly action: "continue" | "abandon" | "report";
};
export type StopRecord = {
  readonly attemptId: string;
  readonly fence: bigint;
  readonly reason: "cancelled" | "lease_lost" | "give_back";
};
/** A session that is over, for the sessions that are open here to be compared with. */
export type RefusedSession = {
  readonly hostId: string;
  /** Sessions of an older epoch are over; null: whatever its epoch. */
  readonly epoch: bigint | null;
  /** Only the session under this certificate; null: under any. */
  readonly serial: string | null;
  readonly why: "moved" | "revoked" | "copied" | "replaced";
};
export type OutputRecord = {
  readonly name: string;
  readonly sha256: string;
  readonly sizeBytes: number;
  readonly mediaType: string;
};
export type RenewalRecord = {
  readonly hostId: string;
  readonly epoch: bigint;
  readonly attemptId: string;
  readonly fence: bigint;
  readonly progress: number;
  readonly step: string;
  readonly etaMs: bigint | null;
};
export type EndRecord = {
  readonly attemptId: string;
  readonly fence: bigint;
  readonly hostId: string | null;
  readonly outcome: AttemptOutcome;
  readonly result: JsonObject;
  readonly outputs: readonly OutputRecord[];
  readonly failure: FailureRecord | null;
  readonly usage: readonly {
    readonly service: string;
    readonly provider: string;
    readonly unit: string;
    readonly quantity: number;
  }[];
};
type Signed = { readonly certificate: string; readonly authorities: string };
type OnSession = { readonly hostId: string; readonly epoch: bigint };

export type GrpcOperations = {
  enrolHost(r: {
    readonly token: string;
    readonly csr: Uint8Array;
    readonly name: string;
    readonly inventory: InventoryRecord;
  }): Promise<Signed & { readonly hostId: string }>;
  /** Throws certificate_refused when it was revoked. */
  checkCertificate(r: { readonly hostId: string; readonly serial: string }): Promise<void>;
  renewCertificate(r: { readonly hostId: string; readonly serial: string; readonly csr: Uint8Array }): Promise<Signed>;
  openSession(r: {
    readonly hostId: string;
    readonly serial: string;
    readonly instanceId: string;
    readonly agentVersion: string;
    readonly protocolMin: number;
    readonly protocolMax: number;
    readonly inventory: InventoryRecord;
    readonly attempts: readonly HeldRecord[];
  }): Promise<{ readonly epoch: bigint; readonly verdicts: readonly VerdictRecord[] }>;
  closeSession(r: OnSession & { readonly saidGoodbye: boolean }): Promise<void>;
  /** Ids of the hosts of this replica for which something waits: offers, stops, work to give back. */
  waitingHosts(): Promise<readonly string[]>;
  /** What was refused within the last `windowMs`; may name sessions that are not open here. */
  refusedSessions(r: { readonly windowMs: number }): Promise<readonly RefusedSession[]>;
  takeOffers(r: OnSession): Promise<readonly OfferRecord[]>;
  takeStops(r: OnSession): Promise<readonly StopRecord[]>;
  acceptOffer(r: OnSession & { readonly attemptId: string; readonly fence: bigint }): Promise<boolean>;
  /** Ids of the attempts whose lease was renewed. */
  renewLeases(held: readonly RenewalRecord[]): Promise<ReadonlySet<string>>;
  /** Ids of the hosts whose epoch is still the newest. */
  recordHealth(seen: readonly (OnSession & { readonly health: JsonObject })[]): Promise<ReadonlySet<string>>;
  finishAttempt(r: EndRecord): Promise<{ readonly applied: boolean }>;
  placeOutputs(r: {
    readonly hostId: string;
    readonly attemptId: string;
    readonly fence: bigint;
    readonly outputs: readonly OutputRecord[];
  }): Promise<readonly { readonly sha256: string; readonly url: string }[]>;
};
