// Where a stage may run, and why not elsewhere: a table of filters (pass, or a reason) and a table of scorers (0..1, weight).
// One fit function decides here and is checked again by the agent; reasons are kept and answer "why is it waiting".
// Many stages at once are placed by a round (placement-round.ts), from these same tables. Pure: facts of the moment come in.
import { maxAttemptsPerHost } from "@renderplane/proto/kernel/limits.ts";
import { formatDuration } from "@renderplane/proto/kernel/units.ts";
import { costPerHour } from "./host-price.ts";
import type { AllocationRecord, HostRow, StageSpec } from "./records.ts";
import { freeOf, gpuFor, hasWorkingGpu, isPatient } from "./room.ts";

export type Candidate = {
  readonly host: HostRow;
  /** What its live attempts hold, one entry each. */
  readonly held: readonly AllocationRecord[];
};
export type Need = {
  readonly kind: string;
  readonly spec: StageSpec;
  readonly avoid: readonly { readonly hostId: string; readonly reason: string }[];
  /** The stage's; "" or absent: worked out here. Equal shapes are judged once a round. */
  readonly shape?: string;
  /** Until the job's deadline; absent: it has none. */
  readonly msToDeadline?: number;
  /** Bytes of its inputs that a host made itself and has at hand, by host. */
  readonly local?: ReadonlyMap<string, number>;
};
/** What is true of the fleet at this moment, for every host alike. */
export type FleetFacts = {
  /** A host that was silent this long gets no offers (timings.suspectMs); absent: silence is not judged. */
  readonly suspectMs?: number;
  /** Some host could serve a stage that asks for a GPU: see hasWorkingGpu. */
  readonly hasGpus: boolean;
  /** Ready stages wait that a GPU is for. */
  readonly gpuWorkWaits: boolean;
  /** Kinds of stages that some open host without a GPU can run: the only ones that GPU hosts may be kept free of. */
  readonly cpuKinds: ReadonlySet<string>;
  /** Dollars of an hour of a core and of a GPU, where a host does not say its own price (tag usd-per-hour-…). */
  readonly corePrice: number;
  readonly gpuPrice: number;
};
export type HostVerdict = {
  readonly hostId: string;
  readonly host: string;
  readonly verdict: "fits" | "refused";
  readonly rule: string;
  readonly reason: string;
};

/** A deadline nearer than this many time limits of the stage: price counts no more, a host that gives all the cores does. */
const urgentLimits = 2;
export const isUrgent = (need: Need): boolean =>
  need.msToDeadline !== undefined && need.msToDeadline < urgentLimits * need.spec.timeoutMs;

export const fleetFacts = (
  candidates: readonly Candidate[],
  now: Partial<Pick<FleetFacts, "suspectMs" | "gpuWorkWaits" | "corePrice" | "gpuPrice">> = {},
): FleetFacts => ({
  hasGpus: candidates.some(({ host }) => hasWorkingGpu(host) && isPatient(host)),
  gpuWorkWaits: false,
  cpuKinds: new Set(
    candidates
      .filter(({ host }) => host.replica !== null && host.intent === "open" && !hasWorkingGpu(host))
      .flatMap(({ host }) => host.inventory.stageKinds),
  ),
  corePrice: 0,
  gpuPrice: 0,
  ...now,
});

/**
 * Cores that the stage gets on this host: what it asks for, or the whole host when that is smaller. Cores are time shared, so
 * a small host is slow but able; memory and disk are not, so they refuse.
 */
export const coresOn = (need: Need, host: HostRow): number => Math.min(need.spec.resources.cores, host.inventory.cores);

/** A GPU or nothing, on the fleet as it is now. */
export const demandsGpu = ({ spec: { resources } }: Need, fleet: FleetFacts): boolean =>
  resources.gpu === "required" && (resources.cpuWithoutGpus !== true || fleet.hasGpus);
export const wantsGpu = ({ spec }: Need): boolean => spec.resources.gpu !== "none";

type Filter = {
  readonly name: string;
  readonly refuse: (need: Need, c: Candidate, fleet: FleetFacts) => string | undefined;
};
export const filters: readonly Filter[] = [
  {
    name: "online",
    refuse: (_, { host }) =>
      host.replica === null
        ? host.lastSeenAt === null
          ? "the host is offline and was never seen"
          : `the host is offline; it was last seen ${silence(host)} ago`
        : undefined,
  },
  {
    name: "suspect",
    refuse: (_, { host }, { suspectMs }) =>
      suspectMs !== undefined && host.silentMs !== null && host.silentMs > suspectMs
        ? `nothing was heard from it for ${silence(host)}`
        : undefined,
  },
  {
    name: "intent",
    refuse: (_, { host }) =>
      host.intent === "open"
        ? undefined
        : `the host is ${host.intent === "maintenance" ? "in maintenance" : host.intent}${host.intentReason === "" ? "" : `: ${host.intentReason}`}`,
  },
  {
    name: "agent-draining",
    refuse: (_, { host }) => (host.health.is_draining === true ? "its agent takes no more offers" : undefined),
  },
  {
    name: "kind",
    refuse: (need, c) =>
      c.host.inventory.stageKinds.includes(need.kind) ? undefined : `its agent cannot run ${need.kind} stages`,
  },
  {
    name: "provider",
    refuse: ({ spec }, c) =>
      spec.providers.length === 0 || spec.providers.some((p) => c.host.inventory.providers.includes(p))
        ? undefined
        : `it is not configured for ${spec.providers.join(" or ")}`,
  },
  {
    name: "tags",
    refuse: ({ spec }, c) => {
      const missing = (spec.tags ?? []).filter((tag) => c.host.inventory.tags?.includes(tag) !== true);
      return missing.length === 0 ? undefined : `it does not have the tag ${missing.join(" or the tag ")}`;
    },
  },
  {
    name: "gpu",
    refuse: (need, c, fleet) =>
      demandsGpu(need, fleet) && !gpuFor(need.spec.resources.gpuMemoryBytes, c)
        ? hasWorkingGpu(c.host)
          ? `no GPU with ${gib(need.spec.resources.gpuMemoryBytes)} free`
          : "it has no GPU whose encoder works"
        : undefined,
  },
  {
    name: "keep-gpu",
    refuse: (need, c, fleet) =>
      fleet.gpuWorkWaits && !wantsGpu(need) && hasWorkingGpu(c.host) && fleet.cpuKinds.has(need.kind)
        ? "it is kept for GPU work, which waits"
        : undefined,
  },
  {
    name: "attempts",
    refuse: (_, c) =>
      c.held.length < maxAttemptsPerHost ? undefined : `it holds ${c.held.length} attempts, the most that a host may`,
  },
  { name: "cores", refuse: (need, c) => short("cores", coresOn(need, c.host), freeOf(c).cores, String) },
  { name: "memory", refuse: ({ spec }, c) => short("memory", spec.resources.memoryBytes, freeOf(c).memoryBytes, gib) },
  {
    name: "scratch",
    refuse: ({ spec }, c) => short("scratch disk", spec.resources.scratchBytes, freeOf(c).scratchBytes, gib),
  },
];

type Scorer = {
  readonly name: string;
  readonly weight: number;
  readonly score: (need: Need, c: Candidate, fleet: FleetFacts) => number;
};
/** What every stage of a shape scores alike. */
export const scorers: readonly Scorer[] = [
  {
    name: "gpu-when-preferred",
    weight: 8,
    score: (need, c) => (wantsGpu(need) && gpuFor(need.spec.resources.gpuMemoryBytes, c) ? 1 : 0),
  },
  {
    name: "keep-gpu-free",
    weight: 6,
    score: (need, c) => (!wantsGpu(need) && hasWorkingGpu(c.host) ? 0 : 1),
  },
  // The deadline is near: a host that gives fewer cores than asked for is slower by as much.
  {
    name: "meets-deadline",
    weight: 4,
    score: (need, c) => (isUrgent(need) ? coresOn(need, c.host) / Math.max(1e-9, need.spec.resources.cores) : 1),
  },
  {
    name: "grade",
    weight: 3,
    score: (_, { host }) => (host.grade === "good" ? 1 : host.grade === "degraded" ? 0.5 : 0),
  },
  // Halves with every dollar an hour. Not when it is urgent.
  {
    name: "cheapest",
    weight: 2,
    score: (need, { host }, fleet) =>
      isUrgent(need) ? 0 : 1 / (1 + costPerHour(host, coresOn(need, host), wantsGpu(need), fleet)),
  },
  {
    name: "gpu-spread",
    weight: 1,
    score: (need, c) => (wantsGpu(need) ? (gpuFor(need.spec.resources.gpuMemoryBytes, c)?.freeShare ?? 0) : 0),
  },
  { name: "spread", weight: 1, score: (_, c) => freeOf(c).cores / Math.max(1, c.host.inventory.cores) },
];
/** What differs from stage to stage of one shape; added on top. */
export const stageScorers: readonly Scorer[] = [
  // A host that failed or refused this stage is the last resort, not forbidden: it may be the only one. More than all others. Among
  // such hosts the one that did so longest ago goes first, or a tie would give the stage to the same mute host for ever.
  {
    name: "not-avoided",
    weight: 100,
    score: ({ avoid }, c) => {
      const at = avoid.findIndex((a) => a.hostId === c.host.id);
      return at < 0 ? 1 : (0.5 * (avoid.length - 1 - at)) / avoid.length;
    },
  },
  {
    name: "locality",
    weight: 3,
    score: ({ local }, c) => {
      const here = local?.get(c.host.id) ?? 0;
      return here === 0 ? 0 : here / Math.max(...(local as ReadonlyMap<string, number>).values());
    },
  },
];

const total = (table: readonly Scorer[], need: Need, c: Candidate, fleet: FleetFacts): number =>
  table.reduce((sum, s) => sum + s.weight * s.score(need, c, fleet), 0);
export const shapeScore = (need: Need, c: Candidate, fleet: FleetFacts): number => total(scorers, need, c, fleet);
export const stageScore = (need: Need, c: Candidate, fleet: FleetFacts): number => total(stageScorers, need, c, fleet);
export const scoreOf = (need: Need, c: Candidate, fleet: FleetFacts): number =>
  shapeScore(need, c, fleet) + stageScore(need, c, fleet);

/** The first filter that refuses, or undefined when the host can take it now. */
export const refusalOf = (
  need: Need,
  candidate: Candidate,
  fleet: FleetFacts,
): { readonly rule: string; readonly reason: string } | undefined => {
  for (const filter of filters) {
    const reason = filter.refuse(need, candidate, fleet);
    if (reason !== undefined) return { rule: filter.name, reason };
  }
  return undefined;
};

export const judge = (need: Need, candidate: Candidate, fleet: FleetFacts = fleetFacts([candidate])): HostVerdict => {
  const { id: hostId, name: host } = candidate.host;
  const refusal = refusalOf(need, candidate, fleet);
  if (refusal) return { hostId, host, verdict: "refused", ...refusal };
  const avoided = need.avoid.find((a) => a.hostId === hostId);
  return avoided
    ? {
        hostId,
        host,
        verdict: "fits",
        rule: "last-resort",
        reason: `it has room, but ${avoided.reason}: others go first`,
      }
    : { hostId, host, verdict: "fits", rule: "fits", reason: "it has room" };
};

export type Choice = { readonly hostId: string; readonly host: string; readonly allocation: AllocationRecord };

/** What the stage would hold there. The caller has asked refusalOf. */
export const allocate = (need: Need, c: Candidate): AllocationRecord => {
  const { resources } = need.spec;
  const gpu = wantsGpu(need) ? gpuFor(resources.gpuMemoryBytes, c)?.gpu : undefined;
  return {
    cores: coresOn(need, c.host),
    memoryBytes: resources.memoryBytes,
    scratchBytes: resources.scratchBytes,
    gpuUuid: gpu?.uuid ?? "",
    gpuMemoryBytes: gpu ? resources.gpuMemoryBytes : 0,
    encoderSessions: gpu ? 1 : 0,
  };
};

/**
 * One stage alone: the best host that fits, ties broken by name so that the answer is the same on every replica. What a round
 * answers for its first stage.
 */
export const place = (
  need: Need,
  candidates: readonly Candidate[],
  fleet: FleetFacts = fleetFacts(candidates),
): { readonly choice: Choice | undefined; readonly verdicts: readonly HostVerdict[] } => {
  const verdicts = candidates.map((c) => judge(need, c, fleet));
  const best = candidates
    .filter((_, i) => verdicts[i]?.verdict === "fits")
    .map((c) => ({ c, score: scoreOf(need, c, fleet) }))
    .sort((a, b) => b.score - a.score || (a.c.host.name < b.c.host.name ? -1 : 1))[0]?.c;
  return {
    choice: best && { hostId: best.host.id, host: best.host.name, allocation: allocate(need, best) },
    verdicts,
  };
};

/**
 * Why nothing took it, in one sentence that stays the same while nothing changes; `explain` works out the reason of every host
 * anew. With many hosts the most frequent rule speaks.
 */
export const waitingReason = (verdicts: readonly HostVerdict[]): { readonly rule: string; readonly reason: string } => {
  if (verdicts.length === 0)
    return { rule: "no-host", reason: "no host is enrolled; add one with: npx renderplane host enroll-command" };
  const counts = new Map<string, number>();
  for (const v of verdicts) counts.set(v.rule, (counts.get(v.rule) ?? 0) + 1);
  const [rule = ""] = [...counts.entries()].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1))[0] ?? [];
  const one = verdicts.find((v) => v.rule === rule);
  // A length of silence grows at every look: it stays out of what is written, or each look would write every row.
  const isSilence = rule === "online" || rule === "suspect";
  if (verdicts.length === 1)
    return { rule, reason: `${one?.host}: ${isSilence ? "the host is not heard from" : one?.reason}` };
  return { rule, reason: `none of ${verdicts.length} hosts can take it; most often: ${rule}` };
};

const silence = ({ silentMs }: HostRow): string => formatDuration(silentMs ?? 0);
const short = (what: string, need: number, free: number, show: (n: number) => string): string | undefined =>
  need <= free + 1e-9
    ? undefined
    : `${what}: needs ${show(need)}, ${show(Math.round(Math.max(0, free) * 1000) / 1000)} free`;
const gib = (n: number): string => `${(n / 1024 ** 3).toFixed(1)} GiB`;
