// A round of placement: many stages, one after the other, over one picture of the fleet, from the tables of placement.ts. It owns
// what it has given away in the round; the caller writes it down. Every stage gets what `place` would have answered for it alone.
//
// Stages of one shape fit on the same hosts and score alike there, so a shape is judged once for all hosts, and kept in a heap by
// score. Giving a host away judges that one host again for the shapes met so far; old entries of the heap are passed over by
// their version. What differs inside a shape (hosts to avoid, inputs at hand) touches few hosts, which are scored on top.
// 200 stages of a few shapes over 5,000 hosts: see scripts/bench/placement.ts.

import { shapeOf } from "./pipeline.ts";
import {
  allocate,
  type Candidate,
  type Choice,
  type FleetFacts,
  fleetFacts,
  type HostVerdict,
  isUrgent,
  judge,
  type Need,
  refusalOf,
  scoreOf,
  shapeScore,
  wantsGpu,
} from "./placement.ts";
import type { AllocationRecord } from "./records.ts";
import { hasWorkingGpu } from "./room.ts";

export type Placed = {
  readonly choice: Choice | undefined;
  /** Of every host as it stands now; worked out only when asked for, once a shape while nothing changes. */
  readonly verdicts: () => readonly HostVerdict[];
};
export type Round = {
  readonly place: (need: Need) => Placed;
  /** Gives back what `place` gave: the caller could not use it. */
  readonly undo: (choice: Choice) => void;
};

type Place = { readonly host: Candidate["host"]; readonly held: AllocationRecord[]; version: number };
type Entry = { readonly at: number; readonly score: number; readonly version: number };
type Shape = { readonly need: Need; readonly heap: Entry[]; verdicts: readonly HostVerdict[]; judgedAt: number };

/**
 * `facts`: those of fleetFacts that the caller knows; `waiting`: the needs that this round will be asked for, so that GPU hosts
 * are kept for those that want a GPU until they have been placed.
 */
export const createRound = (
  candidates: readonly Candidate[],
  facts: Partial<FleetFacts> & { readonly waiting?: readonly Need[] } = {},
): Round => {
  // By name: the position breaks ties.
  const places: Place[] = candidates
    .map(({ host, held }) => ({ host, held: [...held], version: 0 }))
    .sort((a, b) => (a.host.name < b.host.name ? -1 : 1));
  const indexOf = new Map(places.map((p, at) => [p.host.id, at]));
  const { waiting = [], ...known } = facts;
  const gpuPlaces = places.filter(({ host }) => hasWorkingGpu(host));
  const isMixed = gpuPlaces.length > 0;
  let fleet: FleetFacts = { ...fleetFacts(candidates), ...known };
  /** By shape: whether a GPU host could take it if nothing ran there. Hosts kept free for other work would be idle for ever. */
  const servable = new Map<string, boolean>();
  const countsAsGpuNeed = (need: Need): boolean => {
    if (!wantsGpu(need)) return false;
    const key = need.shape || shapeOf(need.kind, need.spec);
    const isServable =
      servable.get(key) ?? gpuPlaces.some(({ host }) => refusalOf(need, { host, held: [] }, fleet) === undefined);
    servable.set(key, isServable);
    return isServable;
  };
  let gpuNeeds = waiting.filter(countsAsGpuNeed).length;
  fleet = { ...fleet, gpuWorkWaits: gpuNeeds > 0, ...known };
  const shapes = new Map<string, Shape>();
  let changes = 0;

  const enter = (shape: Shape, at: number): void => {
    const p = places[at] as Place;
    if (refusalOf(shape.need, p, fleet) === undefined)
      push(shape.heap, { at, score: shapeScore(shape.need, p, fleet), version: p.version });
  };
  const shapeFor = (need: Need): Shape => {
    const key = `${need.shape || shapeOf(need.kind, need.spec)}${isUrgent(need) ? " urgent" : ""}`;
    const known = shapes.get(key);
    if (known) return known;
    const shape: Shape = { need: { ...need, avoid: [] }, heap: [], verdicts: [], judgedAt: -1 };
    shapes.set(key, shape);
    for (let at = 0; at < places.length; at++) enter(shape, at);
    return shape;
  };
  /** A host holds more or less than before: it is judged again for every shape met so far. */
  const touch = (at: number): void => {
    (places[at] as Place).version++;
    changes++;
    for (const shape of shapes.values()) enter(shape, at);
  };
  /** The last need for a GPU was placed: hosts that were kept for it are free for others. */
  const countGpuNeed = (by: number): void => {
    const before = fleet.gpuWorkWaits;
    gpuNeeds += by;
    fleet = { ...fleet, gpuWorkWaits: known.gpuWorkWaits === true || gpuNeeds > 0 };
    if (fleet.gpuWorkWaits === before || !isMixed) return;
    changes++;
    shapes.clear();
  };

  /** The best host of the shape that is not in `except`; entries of the past are thrown away on the way. */
  const bestOf = (shape: Shape, except: ReadonlySet<number>): number | undefined => {
    const passed: Entry[] = [];
    let found: number | undefined;
    for (let top = shape.heap[0]; top !== undefined; top = shape.heap[0]) {
      if (top.version === places[top.at]?.version) {
        if (!except.has(top.at)) {
          found = top.at;
          break;
        }
        passed.push(top);
      }
      pop(shape.heap);
    }
    for (const entry of passed) push(shape.heap, entry);
    return found;
  };

  const choose = (need: Need, shape: Shape): number | undefined => {
    const special = new Set<number>();
    for (const hostId of [...need.avoid.map((a) => a.hostId), ...(need.local?.keys() ?? [])]) {
      const at = indexOf.get(hostId);
      if (at !== undefined) special.add(at);
    }
    let best = bestOf(shape, special);
    if (special.size === 0) return best;
    const score = (at: number) => scoreOf(need, places[at] as Place, fleet);
    for (const at of special) {
      if (refusalOf(need, places[at] as Place, fleet) !== undefined) continue;
      const gain = best === undefined ? 1 : score(at) - score(best);
      if (gain > 0 || (gain === 0 && at < (best as number))) best = at;
    }
    return best;
  };

  const verdictsOf = (need: Need, shape: Shape): readonly HostVerdict[] => {
    if (need.avoid.length > 0) return places.map((p) => judge(need, p, fleet));
    if (shape.judgedAt !== changes) {
      shape.verdicts = places.map((p) => judge(shape.need, p, fleet));
      shape.judgedAt = changes;
    }
    return shape.verdicts;
  };

  return {
    place: (need) => {
      const shape = shapeFor(need);
      const at = choose(need, shape);
      const verdicts = () => verdictsOf(need, shape);
      if (at === undefined) return { choice: undefined, verdicts };
      const p = places[at] as Place;
      const choice: Choice = { hostId: p.host.id, host: p.host.name, allocation: allocate(need, p) };
      p.held.push(choice.allocation);
      touch(at);
      if (gpuNeeds > 0 && countsAsGpuNeed(need)) countGpuNeed(-1);
      return { choice, verdicts };
    },
    undo: (choice) => {
      const at = indexOf.get(choice.hostId);
      const held = places[at ?? -1]?.held;
      const given = held?.indexOf(choice.allocation) ?? -1;
      if (at === undefined || held === undefined || given < 0) return;
      held.splice(given, 1);
      touch(at);
    },
  };
};

/** Better first: the higher score, then the name. */
const isBefore = (a: Entry, b: Entry): boolean => a.score > b.score || (a.score === b.score && a.at < b.at);

const push = (heap: Entry[], entry: Entry): void => {
  let at = heap.push(entry) - 1;
  while (at > 0) {
    const up = (at - 1) >> 1;
    if (!isBefore(entry, heap[up] as Entry)) break;
    heap[at] = heap[up] as Entry;
    at = up;
  }
  heap[at] = entry;
};

const pop = (heap: Entry[]): void => {
  const last = heap.pop();
  if (last === undefined || heap.length === 0) return;
  let at = 0;
  for (;;) {
    let child = 2 * at + 1;
    if (child >= heap.length) break;
    if (child + 1 < heap.length && isBefore(heap[child + 1] as Entry, heap[child] as Entry)) child++;
    if (!isBefore(heap[child] as Entry, last)) break;
    heap[at] = heap[child] as Entry;
    at = child;
  }
  heap[at] = last;
};
