// The free room of many hosts of a few profiles, found without looking at each: hosts of a profile stand in buckets by their free
// quarter cores. Which hosts a stage can use at all, and which of them is best, are the rules of placement, applied to a
// profile instead of a host: a GPU for whoever prefers one, GPU hosts kept for that, then the emptiest host.
// Invariant: what is taken is never more than the host has.
import { maxAttemptsPerHost } from "@renderplane/proto/kernel/limits.ts";
import { scorers } from "../../../control-plane/src/domain/placement.ts";
import type { StageSpec } from "../../../control-plane/src/domain/records.ts";
import { type HostProfile, stageKinds } from "../scenario.ts";

const gib = 1024 ** 3;
/** Buckets are a quarter of a core wide: the smallest share that the shipped pipelines ask for. */
const perCore = 4;

/** Placement's own weights, as far as they tell profiles apart. */
const weightOf = (name: string): number => {
  const found = scorers.find((scorer) => scorer.name === name);
  if (!found) throw new Error(`placement has no scorer ${name}; the model must follow its table`);
  return found.weight;
};
const gpuWhenPreferred = weightOf("gpu-when-preferred");
const keepGpuFree = weightOf("keep-gpu-free");
const gpuSpread = weightOf("gpu-spread");
const spread = weightOf("spread");
/** Hosts of a profile that are compared by their GPUs; the emptiest come first, so more would change little. */
const compared = 32;

export type PlanHost = {
  readonly index: number;
  readonly profile: HostProfile;
  cores: number;
  memory: number;
  scratch: number;
  gpuMemory: number[];
  gpuSessions: number[];
  attempts: number;
  isUp: boolean;
  /** Grows when the host is lost: what ran before is not its any more. */
  life: number;
  bucket: number;
  place: number;
};
export type Taken = {
  readonly host: PlanHost;
  readonly cores: number;
  readonly memory: number;
  readonly scratch: number;
  /** -1: none. */
  readonly gpu: number;
  readonly gpuMemory: number;
};

export type Room = {
  readonly hosts: readonly PlanHost[];
  /** undefined: it fits nowhere now. */
  readonly take: (need: { readonly kind: string; readonly spec: StageSpec }) => Taken | undefined;
  readonly give: (taken: Taken) => void;
  readonly down: (host: PlanHost) => void;
  readonly up: (host: PlanHost) => void;
};

export const createRoom = (profiles: readonly HostProfile[], providers: readonly string[]): Room => {
  const hosts = profiles.map(
    (profile, index): PlanHost => ({ index, profile, ...fresh(profile), isUp: true, life: 0, bucket: 0, place: -1 }),
  );
  const groups = new Map<HostProfile, PlanHost[][]>();
  const insert = (host: PlanHost) => {
    let buckets = groups.get(host.profile);
    if (!buckets) {
      buckets = Array.from({ length: Math.floor(host.profile.cores * perCore) + 1 }, () => []);
      groups.set(host.profile, buckets);
    }
    host.bucket = Math.max(0, Math.min(buckets.length - 1, Math.floor(host.cores * perCore + 1e-9)));
    const bucket = buckets[host.bucket] as PlanHost[];
    host.place = bucket.length;
    bucket.push(host);
  };
  const remove = (host: PlanHost) => {
    const bucket = groups.get(host.profile)?.[host.bucket];
    const last = bucket?.pop();
    if (bucket && last && last !== host) {
      bucket[host.place] = last;
      last.place = host.place;
    }
    host.place = -1;
  };
  // Backwards: the last one in is the first one tried, so an idle fleet fills from its first host on.
  for (const host of [...hosts].reverse()) insert(host);

  /** The emptiest host of a profile that fits; with a GPU when one is asked for. */
  const best = (profile: HostProfile, spec: StageSpec, withGpu: boolean): PlanHost | undefined => {
    const { cores, memoryBytes, scratchBytes, gpuMemoryBytes } = spec.resources;
    const needed = Math.min(cores, profile.cores);
    const buckets = groups.get(profile) ?? [];
    let found: PlanHost | undefined;
    const gpuNeed = withGpu ? gpuMemoryBytes : undefined;
    let left = withGpu ? compared : 1;
    for (let i = buckets.length - 1; i >= Math.max(0, Math.floor(needed * perCore)); i--) {
      const bucket = buckets[i] as PlanHost[];
      for (let j = bucket.length - 1; j >= 0; j--) {
        const host = bucket[j] as PlanHost;
        if (host.cores + 1e-9 < needed || host.memory < memoryBytes || host.scratch < scratchBytes) continue;
        if (host.attempts >= maxAttemptsPerHost) continue;
        if (withGpu && gpuOf(host, gpuMemoryBytes) < 0) continue;
        if (!found || emptiness(host, gpuNeed) > emptiness(found, gpuNeed)) found = host;
        if (--left === 0) return found;
      }
    }
    return found;
  };

  return {
    hosts,
    take: ({ kind, spec }) => {
      if (!stageKinds.includes(kind)) return undefined;
      if (spec.providers.length > 0 && !spec.providers.some((p) => providers.includes(p))) return undefined;
      if ((spec.tags ?? []).length > 0) return undefined;
      const gpu = gpuWord(spec, groups.keys());
      let choice: { readonly host: PlanHost; readonly score: number; readonly withGpu: boolean } | undefined;
      const offer = (host: PlanHost | undefined, withGpu: boolean) => {
        if (!host) return;
        const hasGpus = host.profile.gpus > 0;
        const score =
          (withGpu ? gpuWhenPreferred : 0) +
          (gpu === "none" && hasGpus ? 0 : keepGpuFree) +
          emptiness(host, withGpu ? spec.resources.gpuMemoryBytes : undefined);
        if (!choice || score > choice.score || (score === choice.score && host.index < choice.host.index))
          choice = { host, score, withGpu };
      };
      for (const profile of groups.keys()) {
        if (gpu !== "none" && profile.gpus > 0) offer(best(profile, spec, true), true);
        if (gpu !== "required") offer(best(profile, spec, false), false);
      }
      if (!choice) return undefined;
      const { host, withGpu } = choice;
      const device = withGpu ? gpuOf(host, spec.resources.gpuMemoryBytes) : -1;
      const taken: Taken = {
        host,
        cores: Math.min(spec.resources.cores, host.profile.cores),
        memory: spec.resources.memoryBytes,
        scratch: spec.resources.scratchBytes,
        gpu: device,
        gpuMemory: device < 0 ? 0 : spec.resources.gpuMemoryBytes,
      };
      change(host, taken, -1);
      return taken;
    },
    give: (taken) => change(taken.host, taken, 1),
    down: (host) => {
      if (!host.isUp) return;
      remove(host);
      host.isUp = false;
      host.life++;
    },
    up: (host) => {
      if (host.isUp) return;
      Object.assign(host, fresh(host.profile));
      host.isUp = true;
      insert(host);
    },
  };

  function change(host: PlanHost, taken: Taken, sign: 1 | -1): void {
    if (host.isUp) remove(host);
    host.cores += sign * taken.cores;
    host.memory += sign * taken.memory;
    host.scratch += sign * taken.scratch;
    host.attempts -= sign;
    if (taken.gpu >= 0) {
      host.gpuMemory[taken.gpu] = (host.gpuMemory[taken.gpu] ?? 0) + sign * taken.gpuMemory;
      host.gpuSessions[taken.gpu] = (host.gpuSessions[taken.gpu] ?? 0) - sign;
    }
    if (host.isUp) insert(host);
  }
};

/** A stage that expects a GPU runs without one where no host of the fleet has any. */
const gpuWord = ({ resources }: StageSpec, profiles: Iterable<HostProfile>): StageSpec["resources"]["gpu"] =>
  resources.gpu === "required" && resources.cpuWithoutGpus && ![...profiles].some((p) => p.gpus > 0)
    ? "none"
    : resources.gpu;

const fresh = (profile: HostProfile) => ({
  cores: profile.cores,
  memory: profile.memoryGib * gib,
  scratch: profile.scratchGib * gib,
  gpuMemory: Array.from({ length: profile.gpus }, () => profile.gpuMemoryGib * gib),
  gpuSessions: Array.from({ length: profile.gpus }, () => 0),
  attempts: 0,
});

/** 0..2: the free shares of cores and, when one is used, of the GPU that it would get, as placement weighs them. */
const emptiness = (host: PlanHost, gpuMemoryBytes: number | undefined): number => {
  const { cores, profile } = host;
  const share = (spread * cores) / Math.max(1, profile.cores);
  const gpu = gpuMemoryBytes === undefined ? -1 : gpuOf(host, gpuMemoryBytes);
  if (gpu < 0) return share;
  const free = (host.gpuMemory[gpu] ?? 0) / Math.max(1, profile.gpuMemoryGib * gib);
  return share + (gpuSpread * free) / (1 + (host.gpuSessions[gpu] ?? 0));
};

/** The device with room that has fewest sessions, then most memory left; -1 when none has enough. */
const gpuOf = ({ gpuMemory, gpuSessions }: PlanHost, needed: number): number => {
  let best = -1;
  for (let i = 0; i < gpuMemory.length; i++) {
    const [free, sessions] = [gpuMemory[i] ?? 0, gpuSessions[i] ?? 0];
    if (free < needed) continue;
    const most = gpuSessions[best] ?? Number.POSITIVE_INFINITY;
    if (sessions < most || (sessions === most && free > (gpuMemory[best] ?? 0))) best = i;
  }
  return best;
};
