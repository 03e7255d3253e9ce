// For tests of the wire: an edge on real sockets over operations that live in memory, and a raw agent that speaks the contract
// message by message. The fake keeps the rules that the edge relies on (epochs, fences, tokens) and records every call.
import { generateKeyPairSync, type KeyObject, X509Certificate } from "node:crypto";
import { EventEmitter } from "node:events";
import { credentials, type ServiceError } from "@grpc/grpc-js";
import {
  AgentServiceClient,
  type EnrolResponse,
  EnrolServiceClient,
  type HelloAck,
  type SessionRequest,
  type SessionResponse,
} from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import type { Inventory } from "@renderplane/proto/gen/renderplane/v1/types.ts";
import { makeRequest } from "@renderplane/proto/kernel/certificate.ts";
import { codeKey } from "@renderplane/proto/kernel/error-metadata.ts";
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { defaultTimings, protocolVersion, type Timings } from "@renderplane/proto/kernel/limits.ts";
import { silentLogger } from "@renderplane/proto/kernel/process/logger.ts";
import { type Authority, openAuthority } from "../identity/authority.ts";
import { isSecret, makeJoinToken, parseJoinToken } from "../identity/join-token.ts";
import { createGrpcEdge, type GrpcEdge, type GrpcEdgeOptions } from "./agent-server.ts";
import type { EndRecord, GrpcOperations, OfferRecord, RenewalRecord, StopRecord } from "./operations.ts";

/** All timings of a fleet, fifty times faster. */
export const fastTimings: Timings = {
  ...defaultTimings,
  heartbeatMs: 100,
  leaseMs: 600,
  graceMs: 600,
  trustMarginMs: 100,
};

export const until = async (what: string, holds: () => boolean, limitMs = 8000): Promise<void> => {
  const end = performance.now() + limitMs;
  while (!holds()) {
    if (performance.now() > end) throw new Error(`not within ${limitMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
};

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
    renewCertificate: async ({ hostId, csr }) => {
      const signed = await authority.signHost(csr, hostId);
      hostOf(hostId).serials.set(signed.serial, "valid");
      return { certificate: signed.certificate, authorities: authority.authorities };
    },
    openSession: async ({ hostId, serial, protocolMin, protocolMax, attempts }) => {
      const host = hostOf(hostId);
      if (host.serials.get(serial) !== "valid")
        throw new RenderplaneError("certificate_refused", "this certificate has been revoked; enrol the host again");
      if (protocolMin > protocolVersion || protocolMax < protocolVersion)
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

export type TestEdge = {
  readonly edge: GrpcEdge;
  readonly operations: FakeOperations;
  readonly authority: Authority;
  readonly progress: unknown[];
  /** Rings the bell of a host. */
  ring(hostId: string): void;
  stop(): Promise<void>;
};

/** `reuse` keeps the facts and the address of an edge that was stopped: the same control plane, started again. */
export const startEdge = async (
  more: Partial<GrpcEdgeOptions> = {},
  reuse?: Pick<TestEdge, "authority" | "operations" | "edge">,
): Promise<TestEdge> => {
  const authority = reuse?.authority ?? openAuthority(undefined).authority;
  const operations = reuse?.operations ?? createFakeOperations(authority);
  const bells = new EventEmitter();
  bells.setMaxListeners(0);
  const progress: unknown[] = [];
  const edge = createGrpcEdge({
    operations,
    bus: {
      on: (topic, listener) => {
        bells.on(topic, listener);
        return () => bells.off(topic, listener);
      },
    },
    authority,
    timings: fastTimings,
    log: silentLogger(),
    agentListen: reuse?.edge.agentAddress() ?? "127.0.0.1:0",
    enrolListen: reuse?.edge.enrolAddress() ?? "127.0.0.1:0",
    serverNames: [],
    onProgress: (update) => progress.push(update),
    ...more,
  });
  await edge.start();
  return { edge, operations, authority, progress, ring: (hostId) => bells.emit(`host:${hostId}`), stop: edge.stop };
};

export const inventory: Inventory = {
  hostname: "test",
  os: "linux",
  arch: "x64",
  cpuModel: "test",
  cores: 2,
  memoryBytes: 4n * 1024n ** 3n,
  scratchBytes: 10n * 1024n ** 3n,
  gpus: [],
  ffmpegVersion: "5.1.9",
  workingEncoders: ["libx264"],
  stageKinds: ["noop"],
  providers: [],
};

/** The code of the table that a failed call carried, with its status number. */
export const codeOf = (error: unknown): string => {
  const { code, metadata } = error as ServiceError;
  return `${code} ${metadata?.get(codeKey)[0] ?? ""}`.trim();
};

/** The name for SNI: an address is not allowed there, and every server certificate has this one. */
export const rawOptions = { "grpc.use_local_subchannel_pool": 1, "grpc.ssl_target_name_override": "localhost" };

export type RawIdentity = { readonly hostId: string; readonly key: KeyObject; readonly certificate: string };

export const rawEnrol = async (
  { edge, authority }: Pick<TestEdge, "edge" | "authority">,
  token: string,
  more: { readonly name?: string; readonly key?: KeyObject } = {},
): Promise<RawIdentity & { readonly response: EnrolResponse }> => {
  const key = more.key ?? generateKeyPairSync("ec", { namedCurve: "prime256v1" }).privateKey;
  const client = new EnrolServiceClient(
    edge.enrolAddress(),
    credentials.createSsl(Buffer.from(authority.authorities)),
    rawOptions,
  );
  try {
    const request = { token, csr: makeRequest(key), name: more.name ?? "alpha", inventory };
    const response = await new Promise<EnrolResponse>((resolve, reject) => {
      client.enrol(request, (error, answer) => (error ? reject(error) : resolve(answer)));
    });
    return { hostId: response.hostId, key, certificate: response.certificate, response };
  } finally {
    client.close();
  }
};

export const rawClient = (
  { edge, authority }: Pick<TestEdge, "edge" | "authority">,
  identity: Pick<RawIdentity, "key" | "certificate">,
): AgentServiceClient =>
  new AgentServiceClient(
    edge.agentAddress(),
    credentials.createSsl(
      Buffer.from(authority.authorities),
      Buffer.from(identity.key.export({ type: "pkcs8", format: "pem" })),
      Buffer.from(identity.certificate),
    ),
    rawOptions,
  );

export type RawStream = {
  readonly messages: NonNullable<SessionResponse["message"]>[];
  readonly ack: Promise<HelloAck>;
  /** The status that ended the stream. */
  readonly ended: Promise<ServiceError | undefined>;
  send(message: NonNullable<SessionRequest["message"]>): void;
  readonly call: ReturnType<AgentServiceClient["session"]>;
};

export const hello = (more: Partial<Extract<SessionRequest["message"], { $case: "hello" }>["value"]> = {}) => ({
  $case: "hello" as const,
  value: {
    instanceId: "i",
    agentVersion: "0.1.0",
    protocolMin: protocolVersion,
    protocolMax: protocolVersion,
    inventory,
    attempts: [],
    ...more,
  },
});

/** Opens a stream and says Hello. */
export const rawStream = (client: AgentServiceClient, first: SessionRequest["message"] = hello()): RawStream => {
  const call = client.session();
  const messages: RawStream["messages"] = [];
  let acked: (ack: HelloAck) => void = () => {};
  const ack = new Promise<HelloAck>((resolve) => {
    acked = resolve;
  });
  call.on("data", ({ message }: SessionResponse) => {
    if (message) messages.push(message);
    if (message?.$case === "helloAck") acked(message.value);
  });
  const ended = new Promise<ServiceError | undefined>((resolve) => {
    call.on("error", (error: ServiceError) => resolve(error));
    call.on("end", () => resolve(undefined));
  });
  call.write({ message: first });
  return { messages, ack, ended, call, send: (message) => call.write({ message }) };
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
  results: {},
  allocation: { cores: 1, memoryBytes: 1, scratchBytes: 1, gpuUuid: "", gpuMemoryBytes: 0, encoderSessions: 0 },
  timeoutMs: 1000,
  ...more,
});

export const serialOf = (certificate: string): string => new X509Certificate(certificate).serialNumber.toLowerCase();
