// For tests of the wire: an edge on real sockets over operations that live in memory, and a raw agent that speaks the contract
// message by message.
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
import { codeKey } from "@renderplane/proto/kernel/error-metadata.ts";
import { defaultTimings, oldestProtocol, protocolVersion, type Timings } from "@renderplane/proto/kernel/limits.ts";
import { silentLogger } from "@renderplane/proto/kernel/process/logger.ts";
import { type Authority, openAuthority } from "../identity/authority.ts";
import { makeRequest } from "../identity/testing.ts";
import { createGrpcEdge, type GrpcEdge, type GrpcEdgeOptions } from "./agent-server.ts";
import { createFakeOperations, type FakeOperations } from "./testing-operations.ts";

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
  const authority = reuse?.authority ?? (await openAuthority(undefined)).authority;
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
  tags: [],
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
    const request = { token, csr: await makeRequest(key), name: more.name ?? "alpha", inventory };
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
  /** In their order, those of batches one by one. */
  readonly messages: NonNullable<SessionResponse["message"]>[];
  /** Messages in each frame of the stream: 1, or the size of a batch. */
  readonly frames: number[];
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
    protocolMin: oldestProtocol,
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
  const frames: number[] = [];
  let acked: (ack: HelloAck) => void = () => {};
  const ack = new Promise<HelloAck>((resolve) => {
    acked = resolve;
  });
  call.on("data", ({ message }: SessionResponse) => {
    const all = message?.$case === "batch" ? message.value.messages.map((one) => one.message) : [message];
    frames.push(all.length);
    for (const one of all) if (one) messages.push(one);
    if (message?.$case === "helloAck") acked(message.value);
  });
  const ended = new Promise<ServiceError | undefined>((resolve) => {
    call.on("error", (error: ServiceError) => resolve(error));
    call.on("end", () => resolve(undefined));
  });
  call.write({ message: first });
  return { messages, frames, ack, ended, call, send: (message) => call.write({ message }) };
};

export const serialOf = (certificate: string): string => new X509Certificate(certificate).serialNumber.toLowerCase();
