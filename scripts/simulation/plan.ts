// What happens in a history, as data: a seed becomes a list of events, and any part of the list is a history too, which is what
// makes it possible to shrink one. An event names things by a fraction, so that it means something whatever is left of the list;
// one that means nothing at that moment does nothing.
import { createRandom, mix, type Random } from "./random.ts";

/** abort: the replica dies before its n-th statement · deaf: it dies after its n-th commit, before anybody learns of it. */
export type Fault = { readonly kind: "abort" | "deaf"; readonly at: number };
export type Loop = "place" | "wake" | "reap" | "relay" | "hosts" | "beat" | "replicas";
export type Change = "open" | "release" | "cordoned" | "give-back" | "quarantined";

export type Event =
  | {
      readonly kind: "submit";
      readonly replica: number;
      readonly pipeline: number;
      readonly isTight: boolean;
      readonly isAgain: boolean;
      readonly fault?: Fault;
    }
  | { readonly kind: "cancel"; readonly replica: number; readonly pick: number; readonly fault?: Fault }
  | { readonly kind: "loop"; readonly loop: Loop; readonly replica: number; readonly fault?: Fault }
  | { readonly kind: "connect"; readonly agent: number; readonly replica: number }
  | { readonly kind: "push"; readonly agent: number; readonly fault?: Fault }
  | { readonly kind: "beat"; readonly agent: number }
  | { readonly kind: "act"; readonly agent: number }
  | { readonly kind: "deliver"; readonly pick: number; readonly fault?: Fault }
  | { readonly kind: "lose"; readonly pick: number }
  | { readonly kind: "repeat"; readonly pick: number }
  | { readonly kind: "advance"; readonly ms: number }
  | { readonly kind: "crash-agent"; readonly agent: number; readonly keepsJournal: boolean }
  | { readonly kind: "start-agent"; readonly agent: number }
  | { readonly kind: "stall-agent"; readonly agent: number; readonly ms: number }
  | { readonly kind: "cut"; readonly agent: number; readonly isNoticed: boolean }
  /** The stream breaks and the next one is open at once; what the old one carried arrives later, or never. */
  | { readonly kind: "reconnect"; readonly agent: number; readonly replica: number }
  | { readonly kind: "crash-replica"; readonly replica: number }
  | { readonly kind: "start-replica"; readonly replica: number }
  | { readonly kind: "host"; readonly agent: number; readonly change: Change }
  | { readonly kind: "revoke"; readonly agent: number }
  | { readonly kind: "together"; readonly events: readonly Event[]; readonly order: number }
  /** A while in which everything that is on its way arrives, hosts act and loops turn; undisturbed, or one operation of it is struck. */
  | { readonly kind: "flow"; readonly struck?: Struck };
/** The operation whose words begin with `what` dies, after so many others of its kind. */
export type Struck = { readonly what: string; readonly after: number; readonly fault: Fault };

export const replicas = 2;
export const agents = 3;
/** A heartbeat of the simulated fleet; every window follows from it. */
export const heartbeatMs = 1_000;

/** The list of a seed. Its start is a fleet at work; what follows is weighted so that most histories get somewhere. */
export const planOf = (seed: number): Event[] => {
  const random = createRandom(mix("plan", seed));
  const events: Event[] = [];
  for (let agent = 0; agent < agents; agent++)
    if (agent === 0 || random.chance(80)) events.push({ kind: "connect", agent, replica: random.below(replicas) });
  for (let n = 1 + random.below(3); n > 0; n--) events.push(submission(random));
  events.push({ kind: "flow" });
  // Some seeds are calm, some are a storm.
  const trouble = random.pick([15, 40, 70]);
  for (let n = 15 + random.below(25); n > 0; n--)
    events.push(random.chance(trouble) ? troubleOf(random) : ordinary(random));
  return events;
};

type Weighted = readonly (readonly [number, (random: Random) => Event])[];
const choose = (random: Random, table: Weighted): Event => {
  let at = random.below(table.reduce((sum, [weight]) => sum + weight, 0));
  for (const [weight, make] of table) {
    if (at < weight) return make(random);
    at -= weight;
  }
  throw new RangeError("weights do not add up");
};

const replica = (random: Random) => random.below(replicas);
const agent = (random: Random) => random.below(agents);
const submission = (random: Random): Event => ({
  kind: "submit",
  replica: replica(random),
  pipeline: random.below(4),
  isTight: random.chance(15),
  isAgain: random.chance(15),
});
const loop = (random: Random): Event => ({
  kind: "loop",
  loop: random.pick(["place", "place", "wake", "reap", "relay", "hosts", "beat", "replicas"]),
  replica: replica(random),
});
const cancel = (random: Random): Event => ({ kind: "cancel", replica: replica(random), pick: random.fraction() });
const deliver = (random: Random): Event => ({ kind: "deliver", pick: random.fraction() });
const push = (random: Random): Event => ({ kind: "push", agent: agent(random) });
const advance = (random: Random): Event => ({
  kind: "advance",
  ms: random.pick([1, 200, heartbeatMs, heartbeatMs, 2 * heartbeatMs, 5 * heartbeatMs]),
});

const ordinaryEvents: Weighted = [
  [3, submission],
  [8, loop],
  [4, (r) => ({ kind: "connect", agent: agent(r), replica: replica(r) })],
  [6, push],
  [5, (r) => ({ kind: "beat", agent: agent(r) })],
  [6, (r) => ({ kind: "act", agent: agent(r) })],
  [14, deliver],
  [8, advance],
  [8, () => ({ kind: "flow" })],
  [1, (r) => ({ kind: "start-agent", agent: agent(r) })],
  [1, (r) => ({ kind: "start-replica", replica: replica(r) })],
];
const ordinary = (random: Random): Event => choose(random, ordinaryEvents);

const faultOf = (random: Random): Fault =>
  random.chance(70)
    ? { kind: "abort", at: 1 + random.below(random.pick([5, 16])) }
    : { kind: "deaf", at: 1 + random.below(2) };
const changing: Weighted = [
  [2, submission],
  [5, loop],
  [2, cancel],
  [3, push],
  [8, deliver],
];
/** Something that writes, and the replica that does it dies at it. */
const interrupted = (random: Random): Event => {
  const event = choose(random, changing);
  const fault = faultOf(random);
  switch (event.kind) {
    case "submit":
    case "loop":
    case "cancel":
    case "push":
    case "deliver":
      return { ...event, fault };
    default:
      return event;
  }
};
const apart: Weighted = [
  ...changing,
  [1, (r) => ({ kind: "advance", ms: r.pick([1, heartbeatMs, 12 * heartbeatMs]) })],
];
const together = (random: Random): Event => ({
  kind: "together",
  events: Array.from({ length: random.chance(70) ? 2 : 3 }, () =>
    random.chance(8) ? interrupted(random) : choose(random, apart),
  ),
  order: random.below(2 ** 31),
});

/** What writes, by the first word of what it is called. */
const fragile = ["finish", "finish", "accept", "place", "relay", "open", "take", "wake", "reap", "renew"];
const troubles: Weighted = [
  [16, (r) => ({ kind: "flow", struck: { what: r.pick(fragile), after: r.below(2), fault: faultOf(r) } })],
  [8, interrupted],
  [14, together],
  [4, (r) => ({ kind: "lose", pick: r.fraction() })],
  [4, (r) => ({ kind: "repeat", pick: r.fraction() })],
  [3, (r) => ({ kind: "crash-agent", agent: agent(r), keepsJournal: r.chance(60) })],
  [4, (r) => ({ kind: "start-agent", agent: agent(r) })],
  [2, (r) => ({ kind: "stall-agent", agent: agent(r), ms: heartbeatMs * r.pick([2, 8, 14, 30]) })],
  [3, (r) => ({ kind: "cut", agent: agent(r), isNoticed: r.chance(50) })],
  [6, (r) => ({ kind: "reconnect", agent: agent(r), replica: replica(r) })],
  [1, (r) => ({ kind: "crash-replica", replica: replica(r) })],
  [8, (r) => ({ kind: "start-replica", replica: replica(r) })],
  [3, cancel],
  [3, (r) => ({ kind: "host", agent: agent(r), change: r.pick(["open", "cordoned", "give-back", "quarantined"]) })],
  [1, (r) => ({ kind: "revoke", agent: 1 + r.below(agents - 1) })],
  [3, (r) => ({ kind: "advance", ms: heartbeatMs * r.pick([3, 7, 13, 20]) })],
];
const troubleOf = (random: Random): Event => choose(random, troubles);
