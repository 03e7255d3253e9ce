// The conversation of hosts and replicas: what each side sends, and what it does with what arrives. A message is delivered, lost or
// repeated as a whole and in any order, which is more than a stream can do; fences and epochs must stand it.
import { acceptOffer } from "../../control-plane/src/operations/accept-offer.ts";
import { checkCertificate } from "../../control-plane/src/operations/check-certificate.ts";
import { closeSession } from "../../control-plane/src/operations/close-session.ts";
import { finishAttempt } from "../../control-plane/src/operations/finish-attempt.ts";
import { openSession } from "../../control-plane/src/operations/open-session.ts";
import { recordHealth, renewLeases } from "../../control-plane/src/operations/renew-leases.ts";
import { takeOffers, takeStops } from "../../control-plane/src/operations/take-offers.ts";
import { inventory } from "../../control-plane/src/testing/engine.ts";
import { type Agent, type End, heldBy, isAwake, mayWork, type Run, runOf, workMs } from "./agent.ts";
import type { Fault } from "./plan.ts";
import { mix } from "./random.ts";
import type { Lane, Replica } from "./replica.ts";
import { at, type Message, perform, say, Violation, type World } from "./world.ts";

const send = (world: World, words: string, deliver: Message["deliver"]): void => {
  say(world, `sent: ${words}`);
  world.messages.push({ words, deliver });
};

/** To an agent: nothing arrives at one that is down, stalled or has become another process. */
const toAgent = (world: World, agent: Agent, words: string, take: () => void): void => {
  const { instance } = agent;
  send(world, `${words} to ${agent.name}`, async () => {
    if (isAwake(agent, world.nowMs) && agent.instance === instance) take();
  });
};

/** To the replica of a stream: what a dead process had not read is gone. */
const toReplica = (
  world: World,
  replica: Replica,
  words: string,
  take: (lane: Lane, fault: Fault | undefined) => Promise<void>,
): void => {
  const life = replica.starts;
  send(world, `${words} to r${replica.index}`, async (lane, fault) => {
    if (replica.isUp && replica.starts === life) await take(lane, fault);
  });
};

const loseStream = (world: World, agent: Agent, epoch: bigint): void => {
  for (const replica of world.replicas)
    if (replica.streams.get(agent.hostId) === epoch) replica.streams.delete(agent.hostId);
  if (agent.stream?.epoch === epoch) agent.stream = undefined;
};

/** Says Hello. Another call begins only when the last one is not waited for any more. */
export const connect = (world: World, agent: Agent, replica: Replica): void => {
  if (!isAwake(agent, world.nowMs) || agent.stream || !replica.isUp) return;
  if (agent.connectingSinceMs !== undefined && world.nowMs - agent.connectingSinceMs < world.rig.timings.leaseMs)
    return;
  const { nowMs: sentMs } = world;
  const call = ++agent.calls;
  const { instance } = agent;
  agent.connectingSinceMs = sentMs;
  const attempts = heldBy(agent);
  const isCurrent = () => agent.isUp && agent.calls === call && agent.instance === instance;
  toReplica(world, replica, `Hello of ${agent.name} with ${attempts.length} held`, async (lane, fault) => {
    // A stream that its host gave up is not read any more.
    if (!isCurrent()) return;
    const outcome = await perform(world, replica, lane, fault, `open a session for ${agent.name}`, (ctx) =>
      openSession(ctx, {
        hostId: agent.hostId,
        serial: agent.serial,
        instanceId: `${agent.name}/${instance}`,
        agentVersion: "1",
        protocolMin: 1,
        protocolMax: 2,
        inventory,
        attempts,
      }),
    );
    if (outcome.kind === "refused") agent.connectingSinceMs = undefined;
    if (outcome.kind !== "answer") return;
    const { epoch, verdicts } = outcome.value;
    if (!isCurrent()) return;
    replica.streams.set(agent.hostId, epoch);
    toAgent(world, agent, `HelloAck ${epoch}`, () => {
      if (!isCurrent() || replica.streams.get(agent.hostId) !== epoch) return;
      agent.connectingSinceMs = undefined;
      agent.stream = { replica: replica.index, epoch };
      for (const verdict of verdicts) {
        const run = agent.runs.get(verdict.attemptId);
        if (!run) continue;
        if (verdict.action === "abandon") agent.runs.delete(run.attemptId);
        else {
          run.renewedMs = Math.max(run.renewedMs, sentMs);
          if (run.state === "accepted") start(world, run);
        }
      }
    });
  });
};

const start = (world: World, run: Run): void => {
  run.state = "running";
  run.doneAtMs = world.nowMs + workMs(world.seed, run);
};

/** What the replica of its stream has for the host. */
export const push = async (world: World, agent: Agent, lane: Lane, fault: Fault | undefined): Promise<void> => {
  const replica = world.replicas.find((r) => r.isUp && r.streams.has(agent.hostId));
  const epoch = replica?.streams.get(agent.hostId);
  if (!replica || epoch === undefined) return;
  const on = { hostId: agent.hostId, epoch };
  const offers = await perform(world, replica, lane, fault, `take the offers of ${agent.name}`, async (ctx) =>
    (await takeOffers(ctx, on)).map((o) => ({ ...o, request: {}, inputs: [] })),
  );
  if (offers.kind === "refused") loseStream(world, agent, epoch);
  if (offers.kind !== "answer") return;
  for (const offer of offers.value)
    toAgent(world, agent, `offer ${offer.attemptId} of ${offer.stage}`, () => {
      if (agent.stream?.epoch !== epoch || agent.runs.has(offer.attemptId)) return;
      const run = runOf(world.seed, offer, world.nowMs);
      agent.runs.set(run.attemptId, run);
      if (mix("refuse", world.seed, offer.attemptId) % 100 < 8) {
        const failure = { failureClass: "host_memory", severity: "", message: "memory: needs 1, has 0" };
        return end(world, agent, run, { outcome: "refused", failure, outputs: [] });
      }
      accept(world, agent, replica, run, epoch);
    });
  const stops = await perform(world, replica, lane, undefined, `take the stops of ${agent.name}`, (ctx) =>
    takeStops(ctx, on),
  );
  if (stops.kind !== "answer") return;
  for (const stop of stops.value)
    toAgent(world, agent, `stop ${stop.attemptId} ${stop.reason}`, () => {
      const run = agent.runs.get(stop.attemptId);
      if (!run || run.state === "ended" || run.fence !== stop.fence) return;
      const outcome = String(stop.reason) === "give_back" ? "interrupted" : "cancelled";
      end(world, agent, run, { outcome, failure: null, outputs: [] });
    });
};

const accept = (world: World, agent: Agent, replica: Replica, run: Run, epoch: bigint): void => {
  const { nowMs: sentMs } = world;
  toReplica(world, replica, `accept ${run.attemptId} of ${agent.name}`, async (lane, fault) => {
    const r = { hostId: agent.hostId, epoch, attemptId: run.attemptId, fence: run.fence };
    const outcome = await perform(world, replica, lane, fault, `accept ${run.attemptId}`, (ctx) => acceptOffer(ctx, r));
    if (outcome.kind !== "answer") return;
    if (outcome.value && lane.strand === undefined) await mustBeCurrent(world, agent, epoch, "an accept");
    toAgent(world, agent, `${outcome.value ? "start" : "too late for"} ${run.attemptId}`, () => {
      if (agent.runs.get(run.attemptId) !== run || run.state !== "accepted") return;
      if (!outcome.value) agent.runs.delete(run.attemptId);
      else {
        run.renewedMs = Math.max(run.renewedMs, sentMs);
        start(world, run);
      }
    });
  });
};

/** Only asked when nothing else runs: then what was accepted under an epoch was accepted under today's. */
const mustBeCurrent = async (world: World, agent: Agent, epoch: bigint, what: string): Promise<void> => {
  const { rows } = await world.rig.database.observer.direct.query<{ epoch: bigint }>(
    "select epoch from hosts where id = $1",
    [agent.hostId],
  );
  if (rows[0]?.epoch !== epoch)
    throw new Violation(`I12 ${what} under epoch ${epoch} of ${agent.name} counted; its epoch is ${rows[0]?.epoch}`);
};

export const beat = (world: World, agent: Agent): void => {
  const { stream, hostId } = agent;
  if (!isAwake(agent, world.nowMs) || !stream) return;
  const replica = at(world.replicas, stream.replica);
  const { nowMs: sentMs } = world;
  const { epoch } = stream;
  const runs = [...agent.runs.values()].filter((run) => run.state !== "ended");
  toReplica(world, replica, `heartbeat of ${agent.name} with ${runs.length}`, async (lane, fault) => {
    const seen = await perform(world, replica, lane, fault, `record the health of ${agent.name}`, async (ctx) =>
      [...(await recordHealth(ctx, [{ hostId, epoch, health: {} }]))].includes(hostId),
    );
    if (seen.kind !== "answer") return;
    if (!seen.value) return loseStream(world, agent, epoch);
    if (lane.strand === undefined) await mustBeCurrent(world, agent, epoch, "a heartbeat");
    const held = runs.map(({ attemptId, fence }) => ({
      hostId,
      epoch,
      attemptId,
      fence,
      progress: 0,
      step: "",
      etaMs: null,
    }));
    const renewed = await perform(world, replica, lane, undefined, `renew the leases of ${agent.name}`, async (ctx) =>
      [...(await renewLeases(ctx, held))].sort(),
    );
    if (renewed.kind !== "answer") return;
    toAgent(world, agent, "heartbeat answer", () => {
      for (const run of runs) {
        if (agent.runs.get(run.attemptId) !== run || run.state === "ended") continue;
        if (!renewed.value.includes(run.attemptId)) agent.runs.delete(run.attemptId);
        else if (run.state === "running" && mayWork(run, world.nowMs, world.rig.timings))
          run.renewedMs = Math.max(run.renewedMs, sentMs);
      }
    });
  });
};

/** Its programs come to their ends, and ends that were not answered are told again, to any replica. */
export const act = (world: World, agent: Agent): void => {
  if (!isAwake(agent, world.nowMs)) return;
  for (const run of agent.runs.values()) {
    if (run.state === "running") {
      // Whether the work was done before the trust ran out, or the program was ended by its own deadline.
      const isDone = run.doneAtMs <= world.nowMs && mayWork(run, run.doneAtMs, world.rig.timings);
      if (isDone) {
        for (const output of run.planned.outputs) world.stored.set(output.sha256, output.sizeBytes);
        if (run.planned.outcome === "succeeded") world.made.add(run.attemptId);
        end(world, agent, run, run.planned);
      } else if (!mayWork(run, world.nowMs, world.rig.timings))
        end(world, agent, run, { outcome: "interrupted", failure: null, outputs: [] });
    } else if (run.state === "ended" && run.end) report(world, agent, run, run.end);
  }
};

const end = (world: World, agent: Agent, run: Run, how: End): void => {
  run.state = "ended";
  run.end = how;
  report(world, agent, run, how);
};

const report = (world: World, agent: Agent, run: Run, how: End): void => {
  const replica =
    world.replicas.find((r) => r.isUp && r.index === agent.stream?.replica) ?? world.replicas.find((r) => r.isUp);
  if (!replica) return;
  toReplica(world, replica, `${how.outcome} ${run.attemptId} of ${agent.name}`, async (lane, fault) => {
    const outcome = await perform(
      world,
      replica,
      lane,
      fault,
      `finish ${run.attemptId} as ${how.outcome}`,
      async (ctx) => {
        await checkCertificate(ctx, { hostId: agent.hostId, serial: agent.serial });
        return finishAttempt(ctx, {
          attemptId: run.attemptId,
          fence: run.fence,
          hostId: agent.hostId,
          result: { ok: true },
          usage: [],
          ...how,
        });
      },
    );
    if (outcome.kind !== "answer") return;
    if (how.outcome === "succeeded") world.told.push({ attemptId: run.attemptId, applied: outcome.value.applied });
    toAgent(world, agent, `${outcome.value.applied ? "counted" : "did not count"} ${run.attemptId}`, () => {
      if (agent.runs.get(run.attemptId) === run) agent.runs.delete(run.attemptId);
    });
  });
};

/** The connection is gone; a replica notices, or finds out later. */
export const cut = async (world: World, agent: Agent, isNoticed: boolean, lane: Lane): Promise<void> => {
  const { stream } = agent;
  if (!stream) return;
  agent.stream = undefined;
  const replica = at(world.replicas, stream.replica);
  say(world, `the stream of ${agent.name} breaks`);
  if (replica.streams.get(agent.hostId) === stream.epoch) replica.streams.delete(agent.hostId);
  if (isNoticed)
    await perform(world, replica, lane, undefined, `close the session of ${agent.name}`, (ctx) =>
      closeSession(ctx, { hostId: agent.hostId, epoch: stream.epoch }),
    );
};
