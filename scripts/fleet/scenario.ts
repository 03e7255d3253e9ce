// What a simulated fleet is: its hosts, how long stages take there, how often they fail, which hosts come and go. Plain data that
// travels to another process as JSON, with the draws that both the simulator and the model (plan/) make from it, so that the two
// can be compared. Nothing here knows a socket or a database.
import type { Inventory } from "@renderplane/proto/gen/renderplane/v1/types.ts";
import type { FailureClass } from "@renderplane/proto/kernel/failure.ts";
import { createRandom, type Random } from "./random.ts";

export type HostProfile = {
  readonly name: string;
  /** Out of the sum of all shares. */
  readonly share: number;
  readonly cores: number;
  readonly memoryGib: number;
  readonly scratchGib: number;
  readonly gpus: number;
  readonly gpuMemoryGib: number;
  /** What an hour of this host costs, used or not: for capacity, not for the ledger. */
  readonly dollarsPerHour: number;
};

/** Milliseconds of a stage of weight 1 on a host without a GPU. */
export type Durations =
  | { readonly kind: "fixed"; readonly ms: number }
  | { readonly kind: "lognormal"; readonly medianMs: number; readonly sigma: number };

export type Churn = {
  /** Losses an hour and host; 0: none. */
  readonly perHostHour: number;
  /** How long a lost host stays away, mean of an exponential. */
  readonly awayMs: number;
  /** Losses without a word, after which the lease has to run out; the others are restarts that the host reports itself. */
  readonly silentShare: number;
};

export type Scenario = {
  readonly seed: number;
  readonly hosts: number;
  readonly profiles: readonly HostProfile[];
  readonly durations: Durations;
  /** Stages of these classes fail with this probability each (0..1). */
  readonly failures: { readonly [C in FailureClass]?: number };
  readonly churn: Churn;
  /** What the encoder of a GPU saves: a stage that holds one is this much faster. */
  readonly gpuSpeed: number;
  /** More providers that hosts say they have, e.g. openai.chat. */
  readonly providers: readonly string[];
};

/** Two sizes without a GPU and one with: the mix of the requirements, where most of the work is not encoding. */
export const defaultProfiles: readonly HostProfile[] = [
  { name: "cpu-8", share: 6, cores: 8, memoryGib: 32, scratchGib: 200, gpus: 0, gpuMemoryGib: 0, dollarsPerHour: 0.4 },
  {
    name: "cpu-16",
    share: 2,
    cores: 16,
    memoryGib: 64,
    scratchGib: 400,
    gpus: 0,
    gpuMemoryGib: 0,
    dollarsPerHour: 0.8,
  },
  { name: "gpu-8", share: 2, cores: 8, memoryGib: 32, scratchGib: 200, gpus: 1, gpuMemoryGib: 16, dollarsPerHour: 1.2 },
];

export const defaultScenario: Scenario = {
  seed: 1,
  hosts: 20,
  profiles: defaultProfiles,
  durations: { kind: "lognormal", medianMs: 2_000, sigma: 0.6 },
  failures: {},
  churn: { perHostHour: 0, awayMs: 20_000, silentShare: 0.5 },
  gpuSpeed: 3,
  providers: ["tts.espeak", "media_api.library"],
};

/** How much longer or shorter a stage of a kind is than a render, from the timeouts of the requirements. Others count 1. */
const weights: Readonly<Record<string, number>> = {
  script: 0.1,
  speech: 0.3,
  media: 0.4,
  render: 1,
  validate: 0.2,
  package: 0.15,
  analyse: 0.2,
  prepare: 0.9,
  merge: 0.15,
  compress: 1,
  store: 0.2,
  cleanup: 0.02,
  validate_ladder: 0.3,
};
/** Every kind that the shipped pipelines and the benchmarks name. */
export const stageKinds: readonly string[] = [...Object.keys(weights), "transcode", "noop"];

/** At least a millisecond: even a stage that does nothing has a beginning and an end. Fixed durations mean what they say. */
export const durationMs = (
  { durations, gpuSpeed }: Pick<Scenario, "durations" | "gpuSpeed">,
  random: Random,
  stage: { readonly kind: string; readonly hasGpu: boolean },
): number => {
  if (durations.kind === "fixed") return durations.ms;
  const drawn = random.lognormal(durations.medianMs, durations.sigma) * (weights[stage.kind] ?? 1);
  return Math.max(1, stage.hasGpu ? drawn / gpuSpeed : drawn);
};

/** The class that this run of a stage fails with; undefined: it succeeds. One draw, so that rates add up. */
export const failureOf = ({ failures }: Pick<Scenario, "failures">, random: Random): FailureClass | undefined => {
  let left = random.next();
  for (const [name, rate] of Object.entries(failures)) {
    left -= rate ?? 0;
    if (left < 0) return name as FailureClass;
  }
  return undefined;
};

/** The profile of every host: shares are kept exactly for any count, only the order is drawn. */
export const profilesOf = ({ profiles, hosts, seed }: Scenario): HostProfile[] => {
  const total = profiles.reduce((sum, p) => sum + p.share, 0);
  if (!(total > 0)) throw new Error("profiles: at least one must have a share above 0");
  const drawn: HostProfile[] = [];
  let shares = 0;
  for (const profile of profiles) {
    shares += profile.share;
    while (drawn.length < Math.round((hosts * shares) / total)) drawn.push(profile);
  }
  const random = createRandom(seed, "profiles");
  for (let i = drawn.length - 1; i > 0; i--) {
    const j = random.below(i + 1);
    const kept = drawn[i] as HostProfile;
    drawn[i] = drawn[j] as HostProfile;
    drawn[j] = kept;
  }
  return drawn;
};

export const hostName = (index: number, prefix = "sim"): string => `${prefix}-${String(index).padStart(5, "0")}`;

const gib = 1024 ** 3;
export const inventoryOf = (
  profile: HostProfile,
  index: number,
  scenario: Pick<Scenario, "providers">,
  name = hostName(index),
): Inventory => ({
  hostname: name,
  os: "linux",
  arch: "x64",
  cpuModel: `simulated ${profile.name}`,
  cores: profile.cores,
  memoryBytes: BigInt(Math.round(profile.memoryGib * gib)),
  scratchBytes: BigInt(Math.round(profile.scratchGib * gib)),
  gpus: Array.from({ length: profile.gpus }, (_, i) => ({
    uuid: `GPU-${name}-${i}`,
    name: "simulated",
    memoryBytes: BigInt(Math.round(profile.gpuMemoryGib * gib)),
    driverVersion: "1",
    workingEncoders: ["h264_nvenc"],
  })),
  ffmpegVersion: "simulated",
  workingEncoders: ["libx264", "aac"],
  stageKinds: [...stageKinds],
  providers: [...scenario.providers],
  tags: [],
});
