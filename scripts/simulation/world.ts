// The state of one history: its clock, hosts, replicas, what is on its way between them, and what clients were told.
// Everything that happens is written down in words; the words of a seed are the same at every replay.
import type { Context } from "../../control-plane/src/operations/context.ts";
import { type Agent, createAgent } from "./agent.ts";
import { agents, type Fault, replicas, type Struck } from "./plan.ts";
import { createRandom, mix } from "./random.ts";
import { createReplica, type Lane, type Outcome, type Replica, runOn } from "./replica.ts";
import type { Rig } from "./rig.ts";
import type { Snapshot } from "./snapshot.ts";

/** Something that must never be. It ends the history; its first words name the rule. */
export class Violation extends Error {}

export type Message = {
  readonly words: string;
  readonly deliver: (lane: Lane, fault: Fault | undefined) => Promise<void>;
};
export type Order = {
  readonly key: string;
  readonly body: Readonly<Record<string, string | number>>;
  /** Ids that clients were answered with. */
  readonly ids: Set<string>;
  /** A cancel was answered. */
  isCancelled: boolean;
};
/** What an agent was told about an end that it reported as a success. */
export type Told = { readonly attemptId: string; readonly applied: boolean };

export type World = {
  readonly seed: number;
  readonly rig: Rig;
  nowMs: number;
  readonly agents: readonly Agent[];
  readonly replicas: readonly Replica[];
  readonly messages: Message[];
  readonly orders: Order[];
  readonly told: Told[];
  /** Attempts whose programs really came to their end with outputs. */
  readonly made: Set<string>;
  readonly stored: Map<string, number>;
  readonly published: string[];
  /** Topics that rang and were not answered yet. Bells only hurry; the plan decides when anything happens. */
  readonly bells: Set<string>;
  /** Errors that an operation caught and only wrote down. */
  readonly faults: string[];
  rounds: number;
  /** The fault that a later operation meets. */
  struck: (Omit<Struck, "after"> & { after: number }) | undefined;
  readonly words: string[];
  snapshot: Snapshot | undefined;
  /** Something may have been written since the snapshot. */
  isTouched: boolean;
  readonly base: Omit<Context, "db" | "replica">;
};

/** A refusal of the product, and the death of a replica: what a history is made of. */
const expected: ReadonlySet<string> = new Set(["RenderplaneError", "ReplicaDied"]);

/** Every history begins here, far from the time of any machine. */
export const epochMs = Date.UTC(2040, 0, 1);

export const createWorld = (rig: Rig, seed: number): World => {
  const stored = new Map<string, number>();
  const published: string[] = [];
  const bells = new Set<string>();
  const faults: string[] = [];
  return {
    seed,
    rig,
    nowMs: epochMs,
    agents: Array.from({ length: agents }, (_, n) => createAgent(n)),
    replicas: Array.from({ length: replicas }, (_, n) => createReplica(n)),
    messages: [],
    orders: [],
    told: [],
    made: new Set(),
    stored,
    published,
    bells,
    faults,
    rounds: 0,
    struck: undefined,
    words: [],
    snapshot: undefined,
    isTouched: true,
    base: rig.context({
      random: createRandom(mix("ids", seed)),
      stored,
      publish: (channel, message) => published.push(JSON.stringify([channel, message])),
      ring: (topic) => bells.add(topic),
      log: (line) => {
        const { err, msg } = JSON.parse(line) as { err?: { type: string; message: string }; msg: string };
        if (err && !expected.has(err.type)) faults.push(`an operation logged ${err.type}: ${err.message} (${msg})`);
      },
    }),
  };
};

export const say = (world: World, words: string): void => {
  world.words.push(`${((world.nowMs - epochMs) / 1000).toFixed(3)} ${words}`);
};

export const at = <T>(items: readonly T[], index: number): T => {
  const item = items[index];
  if (item === undefined) throw new RangeError(`there is no ${index} of ${items.length}`);
  return item;
};

/** The one of the items that a fraction names. */
export const pickBy = <T>(items: readonly T[], fraction: number): T | undefined =>
  items[Math.min(items.length - 1, Math.floor(fraction * items.length))];

/** One operation on a replica, with what its death means to the hosts that it served. */
export const perform = async <T>(
  world: World,
  replica: Replica,
  lane: Lane,
  fault: Fault | undefined,
  what: string,
  act: (ctx: Context) => Promise<T>,
): Promise<Outcome<T>> => {
  world.isTouched = true;
  const wasUp = replica.isUp;
  const outcome = await runOn(replica, lane, world.base, fault ?? nextFault(world, what), act);
  if (wasUp && !replica.isUp && outcome.kind === "died") loseStreams(world, replica);
  if (outcome.kind === "refused" && outcome.code === "unavailable")
    throw new Violation(`${what} was answered "unavailable" by a database that is well`);
  say(
    world,
    `r${replica.index}: ${what}: ${outcome.kind === "refused" ? `refused, ${outcome.code}` : outcome.kind === "died" ? "died" : show(outcome.value)}`,
  );
  return outcome;
};

const nextFault = (world: World, what: string): Fault | undefined => {
  const { struck } = world;
  if (!struck || !what.startsWith(struck.what) || struck.after-- > 0) return undefined;
  world.struck = undefined;
  return struck.fault;
};

const show = (value: unknown): string =>
  value === undefined ? "done" : (JSON.stringify(value, (_, v) => (typeof v === "bigint" ? String(v) : v)) ?? "done");

export const loseStreams = (world: World, replica: Replica): void => {
  replica.streams.clear();
  for (const agent of world.agents) if (agent.stream?.replica === replica.index) agent.stream = undefined;
};
