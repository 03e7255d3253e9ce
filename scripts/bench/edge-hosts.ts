// The hosts of the edge benchmark: each with its own connection and certificate, one heartbeat a second, and every offer accepted and
// ended at once. Says when all are open, how many heartbeats were answered, and when all stages have ended.
import { once } from "node:events";
import { setTimeout as pause } from "node:timers/promises";
import { credentials } from "@grpc/grpc-js";
import {
  AgentServiceClient,
  type CompleteRequest,
  HeldState,
  Outcome,
  Refusal,
  type SessionRequest,
  type SessionResponse,
} from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import { hello, rawOptions } from "../../control-plane/src/grpc/testing.ts";
import type { EdgeMark, EdgeOrder, EdgeReady } from "./edge-server.ts";

const order = JSON.parse(process.argv[2] ?? "") as EdgeOrder;
const [ready] = (await once(process, "message")) as [EdgeReady];
const say = (mark: EdgeMark) => process.send?.(mark);

let acks = 0;
let ended = 0;
const beats: (() => void)[] = [];

/** About 1,000 bytes, as of a host with two GPUs and a few attempts. */
const held = Array.from({ length: 8 }, (_, n) => ({
  attemptId: `a_${String(n).padStart(26, "0")}`,
  fence: BigInt(n),
  state: HeldState.HELD_STATE_ACCEPTED,
}));
const gpu = {
  uuid: `GPU-${"0".repeat(36)}`,
  used: 0.5,
  memoryUsedBytes: 1n,
  temperatureCelsius: 60,
  encoderUsed: 0.4,
  powerWatts: 90,
};
const health = {
  cpuUsed: 0.5,
  memoryUsedBytes: 1n << 33n,
  scratchFreeBytes: 1n << 40n,
  gpus: Array.from({ length: 8 }, () => gpu),
  agentRssBytes: 80_000_000n,
  loadAverage: 3,
  unacknowledgedEnds: 0,
  isDraining: false,
};

const connect = (certificate: string): Promise<void> => {
  const client = new AgentServiceClient(
    ready.address,
    credentials.createSsl(Buffer.from(ready.authorities), Buffer.from(ready.key), Buffer.from(certificate)),
    rawOptions,
  );
  const call = client.session();
  let sequence = 0n;
  const waiting: CompleteRequest[] = [];
  let isSending = false;
  const complete = () => {
    if (isSending || waiting.length === 0) return;
    isSending = true;
    const ends = waiting.splice(0, 100);
    client.completeMany({ ends }, (error) => {
      isSending = false;
      if (error) throw error;
      ended += ends.length;
      if (ended === order.stages) say({ mark: "done", stages: ended });
      complete();
    });
  };
  const take = (message: SessionResponse["message"], answers: SessionRequest[], opened: () => void) => {
    if (message?.$case === "helloAck") opened();
    if (message?.$case === "heartbeatAck") acks += 1;
    if (message?.$case === "offer") {
      const { attemptId, fence } = message.value;
      const value = { attemptId, fence, accepted: true, refusal: Refusal.REFUSAL_UNSPECIFIED, reason: "" };
      answers.push({ message: { $case: "offerAnswer", value } });
    }
    if (message?.$case === "start") {
      const { attemptId, fence } = message.value;
      const outcome = Outcome.OUTCOME_SUCCEEDED;
      waiting.push({
        attemptId,
        fence,
        outcome,
        result: "{}",
        outputs: [],
        failure: undefined,
        usage: [],
        elapsedMs: 1n,
      });
    }
  };
  beats.push(() =>
    call.write({ message: { $case: "heartbeat", value: { sequence: ++sequence, attempts: held, health } } }),
  );
  return new Promise((resolve, reject) => {
    call.on("error", reject);
    call.on("data", ({ message }: SessionResponse) => {
      const answers: SessionRequest[] = [];
      const all = message?.$case === "batch" ? message.value.messages.map((one) => one.message) : [message];
      for (const one of all) take(one, answers, resolve);
      for (let n = 0; n < answers.length; n += 100)
        call.write({ message: { $case: "batch", value: { messages: answers.slice(n, n + 100) } } });
      complete();
    });
    call.write({ message: hello() });
  });
};

const began = performance.now();
await Promise.all(ready.identities.map(connect));
say({ mark: "open", openMs: performance.now() - began });
const from = performance.now();
const before = acks;
while (performance.now() - from < order.steadyMs) {
  const round = performance.now();
  for (const beat of beats) beat();
  await pause(Math.max(0, 1000 - (performance.now() - round)));
}
await pause(500);
say({ mark: "steady", heartbeats: acks - before });
