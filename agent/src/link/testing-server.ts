// For tests of the link: replicas of a small control plane over real mutual TLS, which speak the protocol that a test wants, and the
// identity of one host that they accept. What arrives is recorded; what is answered is the test's.
import "reflect-metadata";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import type { AddressInfo } from "node:net";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  Metadata,
  Server,
  ServerCredentials,
  type ServerDuplexStream,
  type ServiceDefinition,
  status,
} from "@grpc/grpc-js";
import {
  BasicConstraintsExtension,
  SubjectAlternativeNameExtension,
  type X509Certificate,
  X509CertificateGenerator,
} from "@peculiar/x509";
import {
  AgentServiceService,
  type CompleteManyRequest,
  type CompleteManyResponse,
  type CompleteRequest,
  type CompleteResponse,
  type HelloAck,
  type SessionRequest,
  type SessionResponse,
} from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import type { Inventory } from "@renderplane/proto/gen/renderplane/v1/types.ts";
import { silentLogger } from "@renderplane/proto/kernel/process/logger.ts";
import type { Supervisor } from "../work/contract.ts";
import { type Identity, identityPath } from "./identity.ts";
import { createLink, type Link, type LinkOptions } from "./link.ts";

const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;
const dayMs = 86_400_000;

type Pair = { readonly key: string; readonly certificate: string };
export type Authority = { readonly pem: string; issue(name: string): Promise<Pair> };

export const createAuthority = async (): Promise<Authority> => {
  const dates = { notBefore: new Date(Date.now() - dayMs), notAfter: new Date(Date.now() + 30 * dayMs) };
  const keys = await crypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
  const own: X509Certificate = await X509CertificateGenerator.createSelfSigned({
    name: "CN=authority",
    keys,
    signingAlgorithm: algorithm,
    extensions: [new BasicConstraintsExtension(true)],
    ...dates,
  });
  return {
    pem: own.toString("pem"),
    issue: async (name) => {
      const pair = await crypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
      const certificate = await X509CertificateGenerator.create({
        subject: `CN=${name}`,
        issuer: own.subject,
        publicKey: pair.publicKey,
        signingKey: keys.privateKey,
        signingAlgorithm: algorithm,
        extensions: [
          new SubjectAlternativeNameExtension([
            { type: "dns", value: "localhost" },
            { type: "ip", value: "127.0.0.1" },
          ]),
        ],
        ...dates,
      });
      const der = Buffer.from(await crypto.subtle.exportKey("pkcs8", pair.privateKey)).toString("base64");
      return {
        key: `-----BEGIN PRIVATE KEY-----\n${der}\n-----END PRIVATE KEY-----\n`,
        certificate: certificate.toString("pem"),
      };
    },
  };
};

export type Stream = ServerDuplexStream<SessionRequest, SessionResponse>;
export type Replica = {
  readonly address: string;
  /** As they came on the wire, batches unopened. */
  readonly messages: NonNullable<SessionRequest["message"]>[];
  readonly streams: Stream[];
  readonly calls: { readonly single: CompleteRequest[]; readonly many: CompleteManyRequest[] };
  /** To the newest stream. */
  say(message: NonNullable<SessionResponse["message"]>): void;
  stop(): Promise<void>;
};
export type ReplicaOptions = {
  readonly protocol?: number;
  readonly addresses?: () => readonly string[];
  /** Absent: the call is not known, as in an older release. */
  readonly completeMany?: (request: CompleteManyRequest) => CompleteManyResponse;
  readonly complete?: (request: CompleteRequest) => CompleteResponse;
  /** Answers heartbeats while this is true; never when it is not given. */
  readonly acknowledges?: () => boolean;
  /** Ends each stream at its Hello with this status. */
  readonly refuseWith?: status;
};

let epoch = 0n;
export const startReplica = async (authority: Authority, options: ReplicaOptions = {}): Promise<Replica> => {
  const server = new Server();
  const messages: Replica["messages"] = [];
  const streams: Stream[] = [];
  const calls: Replica["calls"] = { single: [], many: [] };
  const ack = (): HelloAck => {
    epoch += 1n;
    return {
      hostId: "host",
      epoch,
      // So short that a busy test machine must not look like an agent that stood still: two beats are half a second.
      heartbeatMs: 250,
      leaseMs: 1_500,
      verdicts: [],
      serverMs: 0n,
      protocol: options.protocol ?? 2,
      addresses: [...(options.addresses?.() ?? [])],
    };
  };
  const { completeMany: many, ...older } = AgentServiceService;
  const known: ServiceDefinition = options.completeMany ? { ...older, completeMany: many } : older;
  server.addService(known, {
    session: (stream: Stream) => {
      stream.sendMetadata(new Metadata());
      streams.push(stream);
      stream.on("error", () => {});
      stream.on("data", ({ message }: SessionRequest) => {
        if (!message) return;
        messages.push(message);
        if (message.$case === "heartbeat" && options.acknowledges?.()) {
          const { sequence } = message.value;
          stream.write({ message: { $case: "heartbeatAck", value: { sequence, nextHeartbeatMs: 0, stops: [] } } });
        }
        if (message.$case !== "hello") return;
        if (options.refuseWith !== undefined)
          stream.emit("error", { code: options.refuseWith, details: "refused by the test" });
        else stream.write({ message: { $case: "helloAck", value: ack() } });
      });
      stream.on("end", () => stream.end());
    },
    complete: (call: { request: CompleteRequest }, callback: (error: null, value: CompleteResponse) => void) => {
      calls.single.push(call.request);
      callback(null, options.complete?.(call.request) ?? { applied: true });
    },
    completeMany: (
      call: { request: CompleteManyRequest },
      callback: (error: null, value: CompleteManyResponse) => void,
    ) => {
      calls.many.push(call.request);
      callback(null, options.completeMany?.(call.request) ?? { results: [] });
    },
    placeOutputs: (_call: unknown, callback: (error: { code: status }) => void) =>
      callback({ code: status.UNAVAILABLE }),
    renewCertificate: (_call: unknown, callback: (error: { code: status }) => void) =>
      callback({ code: status.UNAVAILABLE }),
  });
  const { key, certificate } = await authority.issue("replica");
  const pair = { private_key: Buffer.from(key), cert_chain: Buffer.from(certificate) };
  const credentials = ServerCredentials.createSsl(Buffer.from(authority.pem), [pair], true);
  const port = await new Promise<number>((resolve, reject) =>
    server.bindAsync("127.0.0.1:0", credentials, (error, bound) => (error ? reject(error) : resolve(bound))),
  );
  return {
    address: `127.0.0.1:${port}`,
    messages,
    streams,
    calls,
    say: (message) => void streams.at(-1)?.write({ message }),
    stop: async () => server.forceShutdown(),
  };
};

const fastPace = {
  helloLimitMs: 2_000,
  firstRetryMs: 20,
  backoffBaseMs: 20,
  backoffCapMs: 100,
  refusedRetryMs: 200,
  renewalPauseMs: 60_000,
};
const inventory: Inventory = {
  hostname: "test",
  os: "linux",
  arch: "x64",
  cpuModel: "",
  cores: 1,
  memoryBytes: 1n,
  scratchBytes: 1n,
  gpus: [],
  ffmpegVersion: "",
  workingEncoders: [],
  stageKinds: [],
  providers: [],
  tags: [],
};

/** Notes what reaches the supervisor, by message. */
export const createNotes = () => {
  const seen: string[] = [];
  const supervisor: Supervisor = {
    held: () => [],
    onHelloAck: (ack) => void seen.push(`ack ${ack.protocol}`),
    onOffer: (offer) => void seen.push(`offer ${offer.attemptId}`),
    onStart: (start) => void seen.push(`start ${start.attemptId}`),
    onStop: (stop) => void seen.push(`stop ${stop.attemptId}`),
    onHeartbeatAck: () => void seen.push("beat"),
    onDisconnect: () => void seen.push("disconnect"),
  };
  return { seen, supervisor };
};

export type LinkBed = {
  readonly dir: string;
  readonly authority: Authority;
  replica(options?: ReplicaOptions): Promise<Replica>;
  /** Writes the identity of a host that was enrolled there into `dir`. */
  enrolled(sessionAddress: string): Promise<void>;
  /** Enrolled and started. */
  link(addresses: readonly string[], more?: Partial<LinkOptions>): Promise<Link & ReturnType<typeof createNotes>>;
  clear(): Promise<void>;
};

export const createLinkBed = async (): Promise<LinkBed> => {
  const dir = mkdtempSync(join(tmpdir(), "renderplane-link-"));
  const authority = await createAuthority();
  const stops: (() => Promise<void>)[] = [];
  const enrolled = async (sessionAddress: string) => {
    const pair = await authority.issue("host");
    const identity: Identity = { version: 1, hostId: "host", ...pair, authorities: authority.pem, sessionAddress };
    writeFileSync(identityPath(dir), JSON.stringify(identity), { mode: 0o600 });
  };
  return {
    dir,
    enrolled,
    authority,
    replica: async (options) => {
      const started = await startReplica(authority, options);
      stops.push(started.stop);
      return started;
    },
    link: async (addresses, more = {}) => {
      await enrolled(addresses[0] ?? "");
      const notes = createNotes();
      const link = createLink({
        dir,
        name: "alpha",
        agentVersion: "0",
        sessionAddress: addresses.join(","),
        inventory: () => inventory,
        health: async () => ({
          cpuUsed: 0,
          memoryUsedBytes: 0n,
          scratchFreeBytes: 0n,
          gpus: [],
          agentRssBytes: 0n,
          loadAverage: 0,
          unacknowledgedEnds: 0,
          isDraining: false,
        }),
        supervisor: notes.supervisor,
        pace: fastPace,
        log: silentLogger(),
        ...more,
      });
      stops.push(link.stop);
      await link.start();
      return { ...link, ...notes };
    },
    clear: async () => {
      for (const stop of stops.reverse()) await stop();
      rmSync(dir, { recursive: true, force: true });
    },
  };
};

/** An address where nobody listens. */
export const deadAddress = (): Promise<string> =>
  new Promise((resolve) => {
    const server = createServer();
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address() as AddressInfo;
      server.close(() => resolve(`127.0.0.1:${port}`));
    });
  });
