// The server of the edge benchmark: the real edge, or the bare stream that it is measured against. Reads its own CPU at the marks that
// the hosts' process sends.

import { generateKeyPairSync } from "node:crypto";
import { Server, ServerCredentials, type ServerDuplexStream } from "@grpc/grpc-js";
import {
  AgentServiceService,
  type SessionRequest,
  type SessionResponse,
} from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import { timingsOf } from "@renderplane/proto/kernel/limits.ts";
import { startEdge } from "../../control-plane/src/grpc/testing.ts";
import { createFakeOperations, makeId, offer } from "../../control-plane/src/grpc/testing-operations.ts";
import { openAuthority } from "../../control-plane/src/identity/authority.ts";
import { makeRequest } from "../../control-plane/src/identity/testing.ts";

export type EdgeOrder = {
  readonly kind: "bare" | "edge";
  readonly hosts: number;
  readonly steadyMs: number;
  readonly stages: number;
};
export type EdgeReady = {
  readonly address: string;
  readonly authorities: string;
  readonly key: string;
  readonly identities: readonly string[];
};
export type EdgeFigures = {
  readonly heartbeatMicros: number;
  readonly stageMicros: number;
  readonly openMs: number;
  readonly rssMegabytes: number;
};
/** What the hosts' process says: all are open, so many heartbeats were acknowledged, so many stages ended. */
export type EdgeMark =
  | { readonly mark: "open"; readonly openMs: number }
  | { readonly mark: "steady"; readonly heartbeats: number }
  | { readonly mark: "done"; readonly stages: number };

const order = JSON.parse(process.argv[2] ?? "") as EdgeOrder;
const { authority } = await openAuthority(undefined);
const operations = createFakeOperations(authority);

/** One key for all: only the names in the certificates differ, and making keys is not measured. */
const key = generateKeyPairSync("ec", { namedCurve: "prime256v1" }).privateKey;
const csr = await makeRequest(key);
const identities: string[] = [];
for (let n = 0; n < order.hosts; n++) {
  const hostId = makeId("h");
  const signed = await authority.signHost(csr, hostId);
  operations.hosts.set(hostId, {
    name: `n${n}`,
    epoch: 0n,
    serials: new Map([[signed.serial, "valid"]]),
    offers: [],
    stops: [],
  });
  identities.push(signed.certificate);
}

const startBare = async (): Promise<string> => {
  const server = new Server();
  const newest = new Map<string, unknown>();
  server.addService(AgentServiceService, {
    session: (call: ServerDuplexStream<SessionRequest, SessionResponse>) => {
      const id = makeId("h");
      call.on("data", ({ message }: SessionRequest) => {
        if (message?.$case === "hello")
          call.write({
            message: {
              $case: "helloAck",
              value: {
                hostId: id,
                epoch: 1n,
                heartbeatMs: 1000,
                leaseMs: 6000,
                verdicts: [],
                serverMs: 0n,
                protocol: 2,
                addresses: [],
              },
            },
          });
        if (message?.$case !== "heartbeat") return;
        newest.set(id, message.value);
        const { sequence } = message.value;
        call.write({ message: { $case: "heartbeatAck", value: { sequence, nextHeartbeatMs: 1000, stops: [] } } });
      });
      call.on("error", () => {});
    },
  });
  const { key: own, certificate } = await authority.serverCredentials([]);
  const pair = [{ private_key: Buffer.from(own), cert_chain: Buffer.from(certificate) }];
  const mutual = ServerCredentials.createSsl(Buffer.from(authority.authorities), pair, true);
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync("127.0.0.1:0", mutual, (error, bound) => (error ? reject(error) : resolve(bound)));
  });
  return `127.0.0.1:${port}`;
};

const live = order.kind === "edge" ? await startEdge({ authority, operations, timings: timingsOf(5000) }) : undefined;
const address = live ? live.edge.agentAddress() : await startBare();

/** Offers that are given out, a host's next one when the last has ended. */
const begin = (count: number) => {
  const ids = [...operations.hosts.keys()];
  for (let n = 0; n < count; n++) {
    const given = offer();
    const hostId = ids[n % ids.length] as string;
    operations.attempts.set(given.attemptId, { fence: given.fence, state: "offered" });
    operations.hosts.get(hostId)?.offers.push(given);
  }
  for (const id of ids) live?.ring(id);
};

const micros = () => {
  const { user, system } = process.cpuUsage();
  return user + system;
};
let openMs = 0;
let from = 0;
let heartbeatMicros = 0;
let rssMegabytes = 0;
process.on("message", (message: EdgeMark) => {
  // The fake remembers every call for tests; here that would be the memory that is measured.
  operations.calls.length = 0;
  if (message.mark === "open") {
    openMs = message.openMs;
    from = micros();
  } else if (message.mark === "steady") {
    heartbeatMicros = (micros() - from) / Math.max(1, message.heartbeats);
    rssMegabytes = process.memoryUsage().rss / 1e6;
    from = micros();
    if (order.stages > 0) begin(order.stages);
    else process.send?.({ heartbeatMicros, stageMicros: 0, openMs, rssMegabytes } satisfies EdgeFigures);
  } else {
    const stageMicros = (micros() - from) / Math.max(1, message.stages);
    process.send?.({ heartbeatMicros, stageMicros, openMs, rssMegabytes } satisfies EdgeFigures);
  }
});
const ready: EdgeReady = {
  address,
  authorities: authority.authorities,
  key: String(key.export({ type: "pkcs8", format: "pem" })),
  identities,
};
process.send?.(ready);
