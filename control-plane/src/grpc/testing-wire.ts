// One enrolled host on a raw stream, for the tests of sessions: the moves that every story begins with.

import {
  type AgentServiceClient,
  type CompleteRequest,
  type CompleteResponse,
  type HeldAttempt,
  HeldState,
  Outcome,
  Refusal,
} from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import type { OfferRecord } from "../operations/take-offers.ts";

import { type RawIdentity, type RawStream, rawClient, rawEnrol, startEdge, type TestEdge, until } from "./testing.ts";
import { makeId, offer } from "./testing-operations.ts";

type Incoming = RawStream["messages"][number];

/** The values of one kind of message that the stream has received. */
export const of = <C extends Incoming["$case"]>(stream: RawStream, $case: C) =>
  stream.messages
    .filter((message): message is Extract<Incoming, { $case: C }> => message.$case === $case)
    .map((message) => message.value as Extract<Incoming, { $case: C }>["value"]);

export const beat = (stream: RawStream, sequence: bigint, attempts: HeldAttempt[]) =>
  stream.send({ $case: "heartbeat", value: { sequence, attempts, health: undefined } });

type Lease = { readonly attemptId: string; readonly fence: bigint };

export const running = ({ attemptId, fence }: Lease): HeldAttempt => ({
  attemptId,
  fence,
  state: HeldState.HELD_STATE_RUNNING,
});

export const answer = (
  stream: RawStream,
  { attemptId, fence }: Lease,
  refusal: Refusal = Refusal.REFUSAL_UNSPECIFIED,
  reason = "",
) =>
  stream.send({
    $case: "offerAnswer",
    value: { attemptId, fence, accepted: refusal === Refusal.REFUSAL_UNSPECIFIED, refusal, reason },
  });

export type Wire = {
  readonly edge: TestEdge;
  readonly identity: RawIdentity;
  readonly client: AgentServiceClient;
  connect(who: RawIdentity): AgentServiceClient;
  host(): NonNullable<ReturnType<TestEdge["operations"]["hosts"]["get"]>>;
  /** Puts an offer in the host's way and rings; answers once the stream has it. */
  giveOffer(stream: RawStream): Promise<OfferRecord>;
  /** An attempt that runs under this stream. */
  runOne(stream: RawStream): Promise<OfferRecord>;
  complete(request: Partial<CompleteRequest>): Promise<CompleteResponse>;
  stop(): Promise<void>;
};

export const startWire = async (more: Parameters<typeof startEdge>[0] = {}): Promise<Wire> => {
  const edge = await startEdge(more);
  const identity = await rawEnrol(edge, edge.operations.issueToken());
  const clients: AgentServiceClient[] = [];
  const connect = (who: RawIdentity) => {
    const made = rawClient(edge, who);
    clients.push(made);
    return made;
  };
  const client = connect(identity);
  const host = () => {
    const found = edge.operations.hosts.get(identity.hostId);
    if (!found) throw new Error("the host is not enrolled");
    return found;
  };
  const giveOffer = async (stream: RawStream) => {
    const given = offer();
    edge.operations.attempts.set(given.attemptId, { fence: given.fence, state: "offered" });
    host().offers.push(given);
    edge.ring(identity.hostId);
    await until("the offer arrives", () => of(stream, "offer").some((o) => o.attemptId === given.attemptId));
    return given;
  };
  return {
    edge,
    identity,
    client,
    connect,
    host,
    giveOffer,
    runOne: async (stream) => {
      const given = await giveOffer(stream);
      answer(stream, given);
      await until("the start arrives", () => of(stream, "start").some((s) => s.attemptId === given.attemptId));
      return given;
    },
    complete: (request) =>
      new Promise((resolve, reject) => {
        const whole: CompleteRequest = {
          attemptId: makeId("a"),
          fence: 1n,
          outcome: Outcome.OUTCOME_SUCCEEDED,
          result: "{}",
          outputs: [],
          failure: undefined,
          usage: [],
          elapsedMs: 1n,
          ...request,
        };
        client.complete(whole, (error, response) => (error ? reject(error) : resolve(response)));
      }),
    stop: async () => {
      for (const made of clients) made.close();
      await edge.stop();
    },
  };
};
