// Operations in memory for tests of the wire. The fake keeps the rules that the edge relies on (epochs, fences, tokens), records
// every call, and can be away like a database. It is no second implementation: what a rule decides is tested with the real ones.

import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { oldestProtocol, protocolVersion } from "@renderplane/proto/kernel/limits.ts";
import type { Authority } from "../identity/authority.ts";
import { isSecret, makeJoinToken, parseJoinToken } from "../identity/join-token.ts";
import type { OfferRecord } from "../operations/take-offers.ts";
import type { EndRecord, GrpcOperations, RenewalRecord, StopRecord } from "./operations.ts";

type FakeHost = {
  name: string;
  epoch: bigint;
  serials: Map<string, "valid" | "revoked">;
  offers: OfferRecord[];
  stops: StopRecord[];
};
type FakeToken = {
  secretSha256: string;
  expiresAt: number;
  usesLeft: number;
  answers: Map<string, { hostId: string; certificate: string; authorities: string }>;
};

export type FakeOperations = GrpcOperations & {
  readonly hosts: Map<string, FakeHost>;
  readonly attempts: Map<string, { fence: bigint; state: "offered" | "running" | "ended" }>;
  readonly calls: { readonly name: keyof GrpcOperations; readonly argument: unknown }[];
  readonly ends: EndRecord[];
  readonly renewals: RenewalRecord[][];
  /** While set, every operation fails with `unavailable`. */
  isAway: boolean;
  issueToken(options?: { readonly ttlMs?: number; readonly maxUses?: number }): string;
  callsOf(name: keyof GrpcOperations): unknown[];
};

const alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
export const makeId = (prefix: "h" | "a" | "v"): string =>
  `${prefix}_${Array.from({ length: 26 }, () => alphabet[Math.floor(Math.random() * 32)]).join("")}`;

export const createFakeOperations = (authority: Authority): FakeOperations => {
  const tokens = new Map<string, FakeToken>();
  const fake: Pick<FakeOperations, "hosts" | "attempts" | "calls" | "ends" | "renewals" | "isAway"> = {
    hosts: new Map(),
    attempts: new Map(),
    calls: [],
    ends: [],
    renewals: [],
    isAway: false,
  };
  const hostOf = (hostId: string, epoch?: bigint): FakeHost => {
    const host = fake.hosts.get(hostId);
    if (!host) throw new RenderplaneError("certificate_refused", "the host of this certificate is not known");
    if (epoch !== undefined && host.epoch !== epoch)
      throw new RenderplaneError("superseded", "a newer session is open");
    return host;
  };
  const operations: GrpcOperations = {
    enrolHost: async ({ token, csr, name }) => {
      const { id, secret } = parseJoinToken(token);
      const row = tokens.get(id);
      if (!row || !isSecret(secret, row.secretSha256))
        throw new RenderplaneError("token_unknown", "this join token was not issued here");
      const hostId = makeId("h");
      const signed = await authority.signHost(csr, hostId);
      const before = row.answers.get(signed.publicKeySha256);
      if (before) return before;
      if (row.expiresAt < Date.now()) throw new RenderplaneError("token_expired", "the join token has expired");
      if (row.usesLeft < 1) throw new RenderplaneError("token_used", "the join token has been used");
      if ([...fake.hosts.values()].some((host) => host.name === name))
        throw new RenderplaneError("host_name_taken", `another host is named ${name}`);
      row.usesLeft -= 1;
      fake.hosts.set(hostId, {
        name,
        epoch: 0n,
        serials: new Map([[signed.serial, "valid"]]),
        offers: [],
        stops: [],
      });
      const answer = { hostId, certificate: signed.certificate, authorities: authority.authorities };
      row.answers.set(signed.publicKeySha256, answer);
      return answer;
    },
    checkCertificate: async ({ hostId, serial }) => {
      if (hostOf(hostId).serials.get(serial) !== "valid")
        throw new RenderplaneError("certificate_refused", "this certificate has been revoked");
    },
    renewCertificate: async ({ hostId, csr }) => {
      const signed = await authority.signHost(csr, hostId);
      hostOf(hostId).serials.set(signed.serial, "valid");
      return { certificate: signed.certificate, authorities: authority.authorities };
    },
    openSession: async ({ hostId, serial, protocolMin, protocolMax, attempts }) => {
      const host = hostOf(hostId);
      if (host.serials.get(serial) !== "valid")
        throw new RenderplaneError("certificate_refused", "this certificate has been revoked; enrol the host again");
      if (protocolMin > protocolVersion || protocolMax < oldestProtocol)
        throw new RenderplaneError("protocol_unsupported", `protocol ${protocolVersion} is needed`);
      host.epoch += 1n;
      return {
        epoch: host.epoch,
        verdicts: attempts.map(({ attemptId, fence, state }) => {
          const known = fake.attempts.get(attemptId);
          const isCurrent = known !== undefined && known.fence === fence && known.state !== "ended";
          const action = !isCurrent ? "abandon" : state === "ended" ? "report" : "continue";
          return { attemptId, fence, action };
        }),
      };
    },
    closeSession: async () => {},
    waitingHosts: async () =>
      [...fake.hosts].filter(([, host]) => host.offers.length + host.stops.length > 0).map(([id]) => id),
    refusedSessions: async () =>
      [...fake.hosts].flatMap(([hostId, host]) => [
        { hostId, epoch: host.epoch, serial: null, why: "moved" as const },
        ...[...host.serials]
          .filter(([, standing]) => standing === "revoked")
          .map(([serial]) => ({ hostId, epoch: null, serial, why: "revoked" as const })),
      ]),
    takeOffers: async ({ hostId, epoch }) => hostOf(hostId, epoch).offers.splice(0),
    takeStops: async ({ hostId, epoch }) => [...hostOf(hostId, epoch).stops],
    acceptOffer: async ({ hostId, epoch, attemptId, fence }) => {
      hostOf(hostId, epoch);
      const attempt = fake.attempts.get(attemptId);
      if (attempt?.fence !== fence || attempt.state === "ended") return false;
      attempt.state = "running";
      return true;
    },
    renewLeases: async (held) => {
      fake.renewals.push([...held]);
      const isLive = ({ attemptId, fence }: RenewalRecord) => {
        const attempt = fake.attempts.get(attemptId);
        return attempt?.fence === fence && attempt.state !== "ended";
      };
      return new Set(held.filter(isLive).map((lease) => lease.attemptId));
    },
    recordHealth: async (seen) =>
      new Set(seen.filter(({ hostId, epoch }) => fake.hosts.get(hostId)?.epoch === epoch).map(({ hostId }) => hostId)),
    finishAttempt: async (end) => {
      fake.ends.push(end);
      const attempt = fake.attempts.get(end.attemptId);
      if (attempt?.fence !== end.fence || attempt.state === "ended") return { applied: false };
      attempt.state = "ended";
      return { applied: true };
    },
    placeOutputs: async ({ outputs }) => outputs.map(({ sha256 }) => ({ sha256, url: `http://127.0.0.1/${sha256}` })),
  };
  const recorded = Object.fromEntries(
    Object.entries(operations).map(([name, act]) => [
      name,
      async (argument: never) => {
        fake.calls.push({ name: name as keyof GrpcOperations, argument });
        if (all.isAway) throw new RenderplaneError("unavailable", "the database is away", { retryAfterMs: 50 });
        return act(argument);
      },
    ]),
  ) as unknown as GrpcOperations;
  const all: FakeOperations = Object.assign(fake, recorded, {
    issueToken: ({ ttlMs = 60_000, maxUses = 1 } = {}) => {
      const { token, id, secretSha256 } = makeJoinToken(authority.pin);
      tokens.set(id, { secretSha256, expiresAt: Date.now() + ttlMs, usesLeft: maxUses, answers: new Map() });
      return token;
    },
    callsOf: (name: keyof GrpcOperations) =>
      fake.calls.filter((call) => call.name === name).map((call) => call.argument),
  });
  return all;
};

export const offer = (more: Partial<OfferRecord> = {}): OfferRecord => ({
  attemptId: makeId("a"),
  fence: 1n,
  jobId: makeId("v"),
  stage: "trial",
  kind: "noop",
  number: 1,
  params: {},
  request: {},
  inputs: [],
  trustedMs: 0,
  results: {},
  allocation: { cores: 1, memoryBytes: 1, scratchBytes: 1, gpuUuid: "", gpuMemoryBytes: 0, encoderSessions: 0 },
  timeoutMs: 1000,
  ...more,
});
