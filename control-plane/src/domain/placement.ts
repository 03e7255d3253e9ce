// Where a stage may run, and why not elsewhere: a table of filters (pass, or a reason) and a table of scorers (0..1, weight).
// One fit function decides here and is checked again by the agent; reasons are kept and answer "why is it waiting".
import { maxAttemptsPerHost } from "@renderplane/proto/kernel/limits.ts";
import type { AllocationRecord, HostRow, StageSpec } from "./records.ts";

export type Candidate = {
  readonly host: HostRow;
  /** What its live attempts hold, one entry each. */
  readonly held: readonly AllocationRecord[];
};
export type Need = {
  readonly kind: string;
  readonly spec: StageSpec;
  readonly avoid: readonly { readonly hostId: string; readonly reason: string }[];
};
export type HostVerdict = {
  readonly hostId: string;
  readonly host: string;
  readonly verdict: "fits" | "refused";
  readonly rule: string;
  readonly reason: string;
};

type Free = { readonly cores: number; readonly memoryBytes: number; readonly scratchBytes: number };
type Filter = { readonly name: string; readonly refuse: (need: Need, c: Candidate) => string | undefined };

const freeOf = ({ host, held }: Candidate): Free => ({
  cores: host.inventory.cores - sum(held, (a) => a.cores),
  memoryBytes: host.inventory.memoryBytes - sum(held, (a) => a.memoryBytes),
  scratchBytes: host.inventory.scratchBytes - sum(held, (a) => a.scratchBytes),
});

/**
 * Cores that the stage gets on this host: what it asks for, or the whole host when that is smaller. Cores are time shared, so
 * a small host is slow but able; memory and disk are not, so they refuse.
 */
export const coresOn = (need: Need, host: HostRow): number => Math.min(need.spec.resources.cores, host.inventory.cores);

export const filters: readonly Filter[] = [
  { name: "online", refuse: (_, c) => (c.host.replica === null ? "the host is offline" : undefined) },
  { name: "intent", refuse: (_, c) => (c.host.intent === "open" ? undefined : `the host is ${c.host.intent}`) },
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
    name: "gpu",
    refuse: ({ spec }, c) =>
      spec.resources.gpu === "required" && !gpuFor(spec, c)
        ? `no GPU with ${gib(spec.resources.gpuMemoryBytes)} free`
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

type Scorer = { readonly name: string; readonly weight: number; readonly score: (need: Need, c: Candidate) => number };
export const scorers: readonly Scorer[] = [
  // A host that failed or refused this stage is the last resort, not forbidden: it may be the only one.
  { name: "not-avoided", weight: 8, score: (need, c) => (need.avoid.some((a) => a.hostId === c.host.id) ? 0 : 1) },
  {
    name: "gpu-when-preferred",
    weight: 4,
    score: ({ spec }, c) => (spec.resources.gpu !== "none" && gpuFor(spec, c) ? 1 : 0),
  },
  {
    name: "keep-gpu-free",
    weight: 2,
    score: ({ spec }, c) => (spec.resources.gpu === "none" && c.host.inventory.gpus.length > 0 ? 0 : 1),
  },
  { name: "spread", weight: 1, score: (_, c) => freeOf(c).cores / Math.max(1, c.host.inventory.cores) },
];

export const judge = (need: Need, candidate: Candidate): HostVerdict => {
  const { id: hostId, name: host } = candidate.host;
  for (const filter of filters) {
    const reason = filter.refuse(need, candidate);
    if (reason !== undefined) return { hostId, host, verdict: "refused", rule: filter.name, reason };
  }
  return { hostId, host, verdict: "fits", rule: "fits", reason: "it has room" };
};

export type Choice = { readonly hostId: string; readonly allocation: AllocationRecord } | undefined;

/** The best host that fits, ties broken by name so that the answer is the same on every replica. */
export const place = (
  need: Need,
  candidates: readonly Candidate[],
): { readonly choice: Choice; readonly verdicts: readonly HostVerdict[] } => {
  const verdicts = candidates.map((c) => judge(need, c));
  const best = candidates
    .filter((_, i) => verdicts[i]?.verdict === "fits")
    .map((c) => ({ c, score: scorers.reduce((total, s) => total + s.weight * s.score(need, c), 0) }))
    .sort((a, b) => b.score - a.score || (a.c.host.name < b.c.host.name ? -1 : 1))[0]?.c;
  return { choice: best && { hostId: best.host.id, allocation: allocate(need, best) }, verdicts };
};

const allocate = (need: Need, c: Candidate): AllocationRecord => {
  const { resources } = need.spec;
  const gpu = resources.gpu === "none" ? undefined : gpuFor(need.spec, c);
  return {
    cores: coresOn(need, c.host),
    memoryBytes: resources.memoryBytes,
    scratchBytes: resources.scratchBytes,
    gpuUuid: gpu?.uuid ?? "",
    gpuMemoryBytes: gpu ? resources.gpuMemoryBytes : 0,
    encoderSessions: gpu ? 1 : 0,
  };
};

/** The GPU with most memory left that fits and whose encoder proved itself. */
const gpuFor = (spec: StageSpec, { host, held }: Candidate) =>
  host.inventory.gpus
    .filter((gpu) => gpu.workingEncoders.length > 0)
    .map((gpu) => ({
      gpu,
      free:
        gpu.memoryBytes -
        sum(
          held.filter((a) => a.gpuUuid === gpu.uuid),
          (a) => a.gpuMemoryBytes,
        ),
    }))
    .filter(({ free }) => free >= spec.resources.gpuMemoryBytes)
    .sort((a, b) => b.free - a.free)[0]?.gpu;

const short = (what: string, need: number, free: number, show: (n: number) => string): string | undefined =>
  need <= free + 1e-9 ? undefined : `${what}: needs ${show(need)}, ${show(Math.max(0, free))} free`;
const gib = (n: number): string => `${(n / 1024 ** 3).toFixed(1)} GiB`;
const sum = <T>(items: readonly T[], of: (item: T) => number): number =>
  items.reduce((total, item) => total + of(item), 0);
