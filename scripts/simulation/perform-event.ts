// What each event of a plan does to the world. An event that makes no sense at that moment does nothing.
import type { IntentAct } from "../../control-plane/src/domain/intent.ts";
import { cancelJob } from "../../control-plane/src/operations/cancel-job.ts";
import type { Context } from "../../control-plane/src/operations/context.ts";
import { placeStages } from "../../control-plane/src/operations/place-stages.ts";
import { reapLeases } from "../../control-plane/src/operations/reap-leases.ts";
import { relayEvents } from "../../control-plane/src/operations/relay-events.ts";
import { resumeReplica } from "../../control-plane/src/operations/resume-replica.ts";
import { setIntent } from "../../control-plane/src/operations/set-intent.ts";
import { parseSubmission, submitJob } from "../../control-plane/src/operations/submit-job.ts";
import { wakeStages } from "../../control-plane/src/operations/wake-stages.ts";
import { watchHosts } from "../../control-plane/src/operations/watch-hosts.ts";
import { watchReplicas } from "../../control-plane/src/operations/watch-replicas.ts";
import { beatReplica } from "../../control-plane/src/store/replicas.ts";
import { type Agent, isAwake } from "./agent.ts";
import type { Change, Event, Fault, Loop } from "./plan.ts";
import { createRandom } from "./random.ts";
import type { Lane, Replica } from "./replica.ts";
import { act, beat, connect, cut, push } from "./session.ts";
import { createLoom } from "./strands.ts";
import { at, loseStreams, type Order, perform, pickBy, say, Violation, type World } from "./world.ts";

export const performEvent = async (world: World, event: Event, lane: Lane): Promise<void> => {
  switch (event.kind) {
    case "submit":
      return submit(world, event, lane);
    case "cancel":
      return cancel(world, event, lane);
    case "loop":
      return turn(world, event.loop, at(world.replicas, event.replica), lane, event.fault);
    case "connect":
      return connect(world, at(world.agents, event.agent), at(world.replicas, event.replica));
    case "push":
      return push(world, at(world.agents, event.agent), lane, event.fault);
    case "beat":
      return beat(world, at(world.agents, event.agent));
    case "act":
      return act(world, at(world.agents, event.agent));
    case "deliver":
      return deliver(world, event.pick, lane, event.fault);
    case "lose": {
      const message = pickBy(world.messages, event.pick);
      if (!message) return;
      world.messages.splice(world.messages.indexOf(message), 1);
      return say(world, `lost: ${message.words}`);
    }
    case "repeat": {
      const message = pickBy(world.messages, event.pick);
      if (!message) return;
      world.messages.push(message);
      return say(world, `repeated: ${message.words}`);
    }
    case "advance":
      return advance(world, event.ms);
    case "crash-agent":
      return crashAgent(world, at(world.agents, event.agent), event.keepsJournal);
    case "start-agent":
      return startAgent(world, at(world.agents, event.agent));
    case "stall-agent": {
      const agent = at(world.agents, event.agent);
      agent.stalledUntilMs = world.nowMs + event.ms;
      return say(world, `${agent.name} stands still for ${event.ms} ms`);
    }
    case "cut":
      return cut(world, at(world.agents, event.agent), event.isNoticed, lane);
    case "reconnect":
      return reconnect(world, at(world.agents, event.agent), at(world.replicas, event.replica), lane);
    case "crash-replica": {
      const replica = at(world.replicas, event.replica);
      replica.isUp = false;
      loseStreams(world, replica);
      return say(world, `r${replica.index} dies`);
    }
    case "start-replica":
      return startReplica(world, at(world.replicas, event.replica), lane);
    case "host":
      return changeHost(world, at(world.agents, event.agent), event.change, lane);
    case "revoke":
      return revoke(world, at(world.agents, event.agent), lane);
    case "together":
      return together(world, event.events, event.order);
    case "flow":
      world.struck = event.struck && { ...event.struck };
      await flow(world, lane);
      world.struck = undefined;
      return;
  }
};

const submit = async (world: World, event: Event & { kind: "submit" }, lane: Lane): Promise<void> => {
  const last = world.orders.at(-1);
  const pipeline = at(world.rig.pipelines, event.pipeline).name;
  const fresh = (): Order => ({
    key: `key-${world.orders.length}`,
    // Equal is allowed: a tight one can pay for its first stage and for nothing after it.
    body: { pipeline, user_id: `user-${event.pipeline % 2}`, ...(event.isTight ? { cost_limit: 0.5 } : {}) },
    ids: new Set(),
    isCancelled: false,
  });
  const order = event.isAgain && last ? last : fresh();
  if (order !== last) world.orders.push(order);
  await sendOrder(world, order, at(world.replicas, event.replica), lane, event.fault);
};

/** A client sends its job, with its key: again and again until it is answered. */
export const sendOrder = async (
  world: World,
  order: Order,
  replica: Replica,
  lane: Lane,
  fault?: Fault,
): Promise<void> => {
  const outcome = await perform(
    world,
    replica,
    lane,
    fault,
    `submit ${order.key} ${JSON.stringify(order.body)}`,
    async (ctx) => {
      const { jobId } = await submitJob(ctx, {
        ...parseSubmission(order.body, ctx.pipelines),
        uploads: [],
        idempotencyKey: order.key,
      });
      return jobId;
    },
  );
  if (outcome.kind === "answer") order.ids.add(outcome.value);
  if (order.ids.size > 1) throw new Violation(`${order.key} was answered with two jobs: ${[...order.ids].join(", ")}`);
};

const cancel = async (world: World, event: Event & { kind: "cancel" }, lane: Lane): Promise<void> => {
  const order = pickBy(
    world.orders.filter((o) => o.ids.size > 0),
    event.pick,
  );
  if (!order) return;
  const [id = ""] = order.ids;
  const replica = at(world.replicas, event.replica);
  const outcome = await perform(world, replica, lane, event.fault, `cancel ${id}`, (ctx) =>
    cancelJob(ctx, id, "not needed"),
  );
  if (outcome.kind === "answer") order.isCancelled = true;
};

const selfOf = (replica: Replica) => ({
  id: replica.id,
  name: `r${replica.index}`,
  version: "1",
  agentAddress: "",
  httpAddress: "",
});
const turns: Readonly<Record<Loop, (ctx: Context, replica: Replica) => Promise<unknown>>> = {
  place: (ctx) => placeStages(ctx),
  wake: async (ctx) => (await wakeStages(ctx)).woken,
  reap: (ctx) => reapLeases(ctx),
  relay: async (ctx) => (await relayEvents(ctx)).length,
  hosts: (ctx) => watchHosts(ctx),
  // True: the others took it for gone.
  beat: (ctx, replica) => beatReplica(ctx.db.direct, selfOf(replica)),
  replicas: (ctx) => watchReplicas(ctx),
};
export const turn = async (world: World, loop: Loop, replica: Replica, lane: Lane, fault?: Fault): Promise<void> => {
  const outcome = await perform(world, replica, lane, fault, loop, (ctx) => turns[loop](ctx, replica));
  // They closed its sessions too: its hosts say hello again.
  if (loop === "beat" && outcome.kind === "answer" && outcome.value === true) loseStreams(world, replica);
};

const deliver = async (world: World, fraction: number, lane: Lane, fault?: Fault): Promise<void> => {
  const message = pickBy(world.messages, fraction);
  if (!message) return;
  world.messages.splice(world.messages.indexOf(message), 1);
  say(world, `arrives: ${message.words}`);
  await message.deliver(lane, fault);
};
export const deliverAll = async (world: World, lane: Lane): Promise<void> => {
  while (world.messages.length > 0) await deliver(world, 0, lane);
};

export const advance = async (world: World, ms: number): Promise<void> => {
  world.nowMs += ms;
  say(world, `${ms} ms pass`);
  await world.rig.database.setTime(world.nowMs);
};

const reconnect = async (world: World, agent: Agent, replica: Replica, lane: Lane): Promise<void> => {
  await cut(world, agent, false, lane);
  // Hello, and its answer: the newest messages. The older ones stay on their way.
  const before = world.messages.length;
  connect(world, agent, replica);
  for (let n = 0; n < 2 && world.messages.length > before; n++) await deliver(world, 1, lane);
};

const crashAgent = (world: World, agent: Agent, keepsJournal: boolean): void => {
  agent.isUp = false;
  agent.stream = undefined;
  agent.connectingSinceMs = undefined;
  if (!keepsJournal) agent.runs.clear();
  say(world, `${agent.name} dies${keepsJournal ? "" : " and loses its disk"}`);
};
const startAgent = (world: World, agent: Agent): void => {
  if (agent.isUp) return;
  agent.isUp = true;
  agent.instance++;
  say(world, `${agent.name} starts`);
};

export const startReplica = async (world: World, replica: Replica, lane: Lane): Promise<void> => {
  if (replica.isUp && replica.starts > 0) return;
  const former = replica.id;
  replica.isUp = true;
  replica.id = `r${replica.index}.${String(++replica.starts).padStart(8, "0")}`;
  await perform(world, replica, lane, undefined, `start, and close what ${former} left open`, async (ctx) => {
    await resumeReplica(ctx, selfOf(replica));
  });
};

const acts: Readonly<Record<Change, IntentAct>> = {
  open: "uncordon",
  release: "release",
  cordoned: "cordon",
  "give-back": "drain",
  quarantined: "quarantine",
};
/** An operator says what a host is for. What its state does not allow is refused. */
export const changeHost = async (world: World, agent: Agent, change: Change, lane: Lane): Promise<void> => {
  const replica = world.replicas.find((r) => r.isUp);
  if (!replica) return;
  await perform(world, replica, lane, undefined, `make ${agent.name} ${change}`, async (ctx) => {
    const giveBack = change === "give-back" ? { giveBackAfterMs: 0 } : {};
    await setIntent(ctx, { host: agent.hostId, act: acts[change], reason: "", by: "operator", ...giveBack });
  });
};
const revoke = async (world: World, agent: Agent, lane: Lane): Promise<void> => {
  const replica = world.replicas.find((r) => r.isUp);
  if (!replica) return;
  agent.isRevoked = true;
  await perform(world, replica, lane, undefined, `revoke ${agent.name}`, async (ctx) => {
    await setIntent(ctx, { host: agent.hostId, act: "revoke", reason: "", by: "operator" });
  });
};

const together = async (world: World, events: readonly Event[], order: number): Promise<void> => {
  const { database, lanes } = world.rig;
  const loom = createLoom(createRandom(order), database.blocked);
  say(world, `at once: ${events.map((e) => (e.kind === "loop" ? e.loop : e.kind)).join(", ")}`);
  for (const [index, event] of events.entries()) {
    const { name, db } = at(lanes, index);
    const strand = loom.strand(name);
    strand.begin(async () => {
      if (event.kind === "advance")
        await strand.weave({ before: () => {}, after: () => {}, committed: () => {} }).before("direct");
      await performEvent(world, event, { db, strand: strand.weave });
      if (event.kind === "advance") strand.landed();
    });
  }
  const { isDeadlocked } = await loom.run();
  if (isDeadlocked) throw new Violation("deadlock: each of the operations waits for a lock that another one holds");
  say(world, "all of them are done");
};

/** Without a bell it is looked at every few rounds: a bell may have been lost with the replica that would have rung it. */
const pollRounds = 4;

/** An undisturbed while, in which everybody who is there does what is next. */
export const flow = async (world: World, lane: Lane): Promise<void> => {
  const here = world.agents.filter((agent) => !agent.isRevoked && isAwake(agent, world.nowMs));
  const up = world.replicas.filter((r) => r.isUp);
  const [leader] = up;
  if (!leader) return;
  const isPolled = world.rounds++ % pollRounds === 0;
  const isDue = (topic: string) => world.bells.delete(topic) || isPolled;
  for (const agent of here) connect(world, agent, at(up, agent.index % up.length));
  await deliverAll(world, lane);
  for (const replica of up) await turn(world, "beat", replica, lane);
  if (isPolled) for (const loop of ["replicas", "hosts"] as const) await turn(world, loop, leader, lane);
  await turn(world, "wake", leader, lane);
  // The time of an offer that was refused comes without a bell.
  if (isDue("ready") || isWaiting(world)) await turn(world, "place", leader, lane);
  for (const agent of here) if (isDue(`host:${agent.hostId}`)) await push(world, agent, lane, undefined);
  await deliverAll(world, lane);
  for (const agent of here) {
    act(world, agent);
    if (agent.runs.size > 0 || isPolled) beat(world, agent);
  }
  await deliverAll(world, lane);
  await turn(world, "reap", leader, lane);
  if (isDue("events")) await turn(world, "relay", leader, lane);
};

const isWaiting = (world: World): boolean => world.snapshot?.stages.some((s) => s.state === "ready") ?? false;
