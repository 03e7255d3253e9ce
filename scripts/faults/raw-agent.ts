// A host that speaks the contract message by message, with a real certificate: it says what no agent of this project would say.
// Enrols like any host. In its own room because faults forge, repeat and reorder; what a well-behaved load is, scripts/fleet knows.
import { generateKeyPairSync } from "node:crypto";
import { type ClientDuplexStream, credentials, Metadata, type ServiceError } from "@grpc/grpc-js";
import {
  AgentServiceClient,
  type CompleteRequest,
  type CompleteResponse,
  EnrolServiceClient,
  type HeldAttempt,
  HeldState,
  type HelloAck,
  Outcome,
  type PlaceOutputsRequest,
  type PlaceOutputsResponse,
  SessionRequest,
  SessionResponse,
} from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import type { Inventory } from "@renderplane/proto/gen/renderplane/v1/types.ts";
import { rhythm } from "@renderplane/proto/kernel/process/rhythm.ts";
import { makeRequest } from "../../control-plane/src/identity/testing.ts";
import type { Fleet } from "../flow/fleet.ts";
import { heartbeatMs } from "./case.ts";

type Incoming = NonNullable<SessionResponse["message"]>;
type Outgoing = NonNullable<SessionRequest["message"]>;
export type Lease = { readonly attemptId: string; readonly fence: bigint };

export type RawSession = {
  readonly ack: Promise<HelloAck>;
  readonly received: readonly Incoming[];
  /** The status that ended the stream; undefined for a clean end. */
  readonly ended: Promise<ServiceError | undefined>;
  isOver(): boolean;
  of<C extends Incoming["$case"]>(kind: C): Extract<Incoming, { $case: C }>["value"][];
  send(message: Outgoing): void;
  /** Bytes in the place of a message. */
  sendBytes(bytes: Uint8Array): void;
  /** What the heartbeats name; whoever accepts an offer adds it. They go out by themselves once the session is open. */
  readonly holds: Map<string, Lease>;
  /** One more heartbeat, with these in the place of what is held. */
  beat(held?: readonly Lease[]): void;
  close(): void;
};

export type RawAgent = {
  readonly hostId: string;
  readonly name: string;
  /** At an address of a replica or a proxy; default: the first replica. */
  session(more?: {
    readonly address?: string;
    readonly instanceId?: string;
    readonly held?: readonly HeldAttempt[];
    readonly beatMs?: number;
  }): RawSession;
  complete(end: Partial<CompleteRequest> & Lease, address?: string): Promise<CompleteResponse>;
  placeOutputs(request: PlaceOutputsRequest): Promise<PlaceOutputsResponse>;
  close(): void;
};

/** Certificates name localhost; an address has no place in SNI. */
const options = {
  "grpc.use_local_subchannel_pool": 1,
  "grpc.ssl_target_name_override": "localhost",
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 1_000,
  "grpc.enable_retries": 0,
};
const unaryLimitMs = 10_000;

const inventory: Inventory = {
  hostname: "raw",
  os: "linux",
  arch: "x64",
  cpuModel: "raw",
  cores: 64,
  memoryBytes: 64n * 1024n ** 3n,
  scratchBytes: 1024n * 1024n ** 3n,
  gpus: [],
  ffmpegVersion: "5.1",
  workingEncoders: ["libx264", "aac"],
  stageKinds: ["noop"],
  providers: [],
  tags: [],
};

/** The authority is read from the database: what a forger of messages has, not what this test is about. */
const authorityOf = async (fleet: Fleet): Promise<Buffer> => {
  const [row] = await fleet.sql<{ value: { certificate: string } }>(
    `select value from installation where value ? 'certificate' limit 1`,
  );
  if (!row) throw new Error("the installation has no authority yet");
  return Buffer.from(row.value.certificate);
};

/** Throws the refusal of the control plane as gRPC gave it. */
export const enrolRaw = async (
  fleet: Fleet,
  name: string,
  more: { readonly token?: string; readonly cores?: number } = {},
): Promise<RawAgent> => {
  const roots = await authorityOf(fleet);
  const token = more.token ?? (await fleet.api<{ token: string }>("POST", "/api/v1/enrollments", {})).body.token;
  const first = fleet.replicas.find((replica) => fleet.isAlive(replica.name));
  if (!first) throw new Error("no replica runs");
  const key = generateKeyPairSync("ec", { namedCurve: "prime256v1" }).privateKey;
  const own = { ...inventory, cores: more.cores ?? inventory.cores };
  const enrol = new EnrolServiceClient(first.enrolAddress, credentials.createSsl(roots), options);
  const csr = await makeRequest(key);
  const identity = await unary<{ hostId: string; certificate: string }>((done) =>
    enrol.enrol({ token, csr, name, inventory: own }, done),
  ).finally(() => enrol.close());
  const pair = credentials.createSsl(
    roots,
    Buffer.from(key.export({ type: "pkcs8", format: "pem" })),
    Buffer.from(identity.certificate),
  );
  const clients = new Map<string, AgentServiceClient>();
  const clientAt = (address = first.agentAddress): AgentServiceClient => {
    const known = clients.get(address) ?? new AgentServiceClient(address, pair, options);
    clients.set(address, known);
    return known;
  };
  const sessions = new Set<RawSession>();
  return {
    hostId: identity.hostId,
    name,
    session: ({ address, instanceId = `raw-${name}`, held = [], beatMs = heartbeatMs } = {}) => {
      const session = openSession(clientAt(address), beatMs);
      sessions.add(session);
      session.send({
        $case: "hello",
        value: {
          instanceId,
          agentVersion: "0.0.0",
          protocolMin: 1,
          protocolMax: 1,
          inventory: own,
          attempts: [...held],
        },
      });
      return session;
    },
    complete: (end, address) =>
      unary((done) =>
        clientAt(address).complete(
          {
            outcome: Outcome.OUTCOME_SUCCEEDED,
            result: "{}",
            outputs: [],
            failure: undefined,
            usage: [],
            elapsedMs: 1n,
            ...end,
          },
          new Metadata(),
          { deadline: Date.now() + unaryLimitMs },
          done,
        ),
      ),
    placeOutputs: (request) => unary((done) => clientAt().placeOutputs(request, done)),
    close: () => {
      for (const session of sessions) session.close();
      for (const client of clients.values()) client.close();
    },
  };
};

export const held = (lease: Lease, state: HeldState = HeldState.HELD_STATE_RUNNING): HeldAttempt => ({
  ...lease,
  state,
});

/** The stream with our own serialisation, so that bytes can stand where a message should be. */
const openSession = (client: AgentServiceClient, beatMs: number): RawSession => {
  const call: ClientDuplexStream<Uint8Array, SessionResponse> = client.makeBidiStreamRequest(
    "/renderplane.v1.AgentService/Session",
    (bytes: Uint8Array) => Buffer.from(bytes),
    (bytes: Buffer) => SessionResponse.decode(bytes),
  );
  const received: Incoming[] = [];
  let isOver = false;
  let sequence = 0n;
  const { promise: ack, resolve: acked, reject: refused } = Promise.withResolvers<HelloAck>();
  ack.catch(() => {});
  const holds = new Map<string, Lease>();
  const beating = rhythm({ name: "heartbeat", periodMs: beatMs, turn: async () => beat(), onError: () => {} });
  const take = ({ message }: SessionResponse) => {
    if (message?.$case === "batch") for (const inner of message.value.messages) take(inner);
    else if (message) received.push(message);
    if (message?.$case !== "helloAck") return;
    acked(message.value);
    void beating.start();
  };
  call.on("data", take);
  const ended = new Promise<ServiceError | undefined>((resolve) => {
    const end = (error?: ServiceError) => {
      isOver = true;
      void beating.stop();
      refused(error ?? new Error("the stream ended before its HelloAck"));
      resolve(error);
    };
    call.on("error", end);
    call.on("end", () => end());
  });
  const sendBytes = (bytes: Uint8Array) => {
    if (!isOver) call.write(bytes);
  };
  const send = (message: Outgoing) => sendBytes(SessionRequest.encode({ message }).finish());
  const beat = (leases: readonly Lease[] = [...holds.values()]) => {
    sequence += 1n;
    send({
      $case: "heartbeat",
      value: { sequence, attempts: leases.map((lease) => held(lease)), health: undefined },
    });
  };
  return {
    ack,
    received,
    ended,
    holds,
    isOver: () => isOver,
    of: (kind) => received.filter((m) => m.$case === kind).map((m) => m.value) as never,
    send,
    sendBytes,
    beat,
    close: () => call.cancel(),
  };
};

/** Takes an offer into the hand: from now on the heartbeats name it. */
export const accept = (session: RawSession, lease: Lease): void => {
  session.holds.set(lease.attemptId, lease);
  session.send({
    $case: "offerAnswer",
    value: { attemptId: lease.attemptId, fence: lease.fence, accepted: true, refusal: 0, reason: "" },
  });
};

/** A host that behaves: accepts every offer and completes each attempt after a while. Stopped, it takes nothing more. */
export const behave = (
  session: RawSession,
  agent: RawAgent,
  options: { readonly workMs: number },
): { stop(): Promise<void> } => {
  let seen = 0;
  const taking = rhythm({
    name: "offers",
    periodMs: 20,
    turn: async () => {
      // A case that failed stops nothing; its bed closes the sessions.
      if (session.isOver()) void taking.stop();
      const fresh = session.of("offer").slice(seen);
      seen += fresh.length;
      for (const offer of fresh) {
        if (session.holds.has(offer.attemptId)) continue;
        accept(session, offer);
        setTimeout(() => {
          void agent
            .complete(offer)
            .catch(() => {})
            .finally(() => session.holds.delete(offer.attemptId));
        }, options.workMs).unref();
      }
    },
    onError: () => {},
  });
  void taking.start();
  return { stop: () => taking.stop() };
};

const unary = <T>(call: (done: (error: ServiceError | null, answer: T) => void) => void): Promise<T> =>
  new Promise((resolve, reject) => {
    call((error, answer) => (error ? reject(error) : resolve(answer)));
  });
