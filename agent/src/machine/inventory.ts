// What this host is and what of it may be given to attempts: read once at start and told in Hello.
// Encoders and programs count only when they proved themselves just now; stage kinds and providers come from the stages' room.
// systeminformation is asked for the names of CPU and OS only (host-names.ts): its GPU and memory answers are unusable for scheduling.
import { statfs } from "node:fs/promises";
import os from "node:os";
import type { Gpu, Inventory } from "@renderplane/proto/gen/renderplane/v1/types.ts";
import { type CanaryEncoder, checkFfmpeg, encoderWorks, hasEspeak } from "./ffmpeg.ts";
import { type GpuState, readGpus } from "./gpu.ts";
import { readMemory } from "./health.ts";
import { readHostNames } from "./host-names.ts";

export type InventoryConfig = {
  readonly ffmpegPath: string;
  readonly ffprobePath: string;
  readonly espeakPath: string;
  /** The folder whose disk the attempts use; it must exist. */
  readonly scratchDir: string;
  readonly stageKinds: readonly string[];
  readonly providers: readonly string[];
  /** Default "nvidia-smi" from PATH. */
  readonly nvidiaSmiPath?: string;
  readonly tags?: readonly string[];
};

/** Throws ConfigError when FFmpeg is missing or too old; everything else that is missing is simply not in the inventory. */
export const readInventory = async (config: InventoryConfig): Promise<Inventory> => {
  const [ffmpegVersion, names, memory, disk, gpus, cpuEncoders, canSpeak] = await Promise.all([
    checkFfmpeg({ ffmpeg: config.ffmpegPath, ffprobe: config.ffprobePath }),
    readHostNames(),
    readMemory(),
    statfs(config.scratchDir),
    readWorkingGpus(config),
    provenEncoders(config.ffmpegPath, ["libx264", "aac"]),
    config.providers.includes("tts.espeak") ? hasEspeak(config.espeakPath) : true,
  ]);
  return {
    hostname: os.hostname(),
    os: names.os,
    arch: os.arch(),
    cpuModel: names.cpuModel,
    // Counts affinity and the cgroup's quota, unlike the number of CPUs.
    cores: os.availableParallelism(),
    memoryBytes: BigInt(memory.totalBytes),
    scratchBytes: BigInt(disk.bavail) * BigInt(disk.bsize),
    gpus,
    ffmpegVersion,
    workingEncoders: [...new Set([...cpuEncoders, ...gpus.flatMap((gpu) => gpu.workingEncoders)])],
    stageKinds: [...config.stageKinds],
    providers: config.providers.filter((provider) => provider !== "tts.espeak" || canSpeak),
    tags: [...(config.tags ?? [])],
  };
};

const provenEncoders = async (ffmpeg: string, encoders: readonly CanaryEncoder[]): Promise<string[]> => {
  const works = await Promise.all(encoders.map((encoder) => encoderWorks(ffmpeg, encoder)));
  return encoders.filter((_, i) => works[i]);
};

/** One GPU after another: a canary takes an encoder session, and a session limit must not read as "no encoder". */
const readWorkingGpus = async (config: InventoryConfig): Promise<Gpu[]> => {
  const { gpus } = await readGpus(config.nvidiaSmiPath);
  const proven: Gpu[] = [];
  for (const gpu of gpus) proven.push(await withEncoders(gpu, config.ffmpegPath));
  return proven;
};

const withEncoders = async (gpu: GpuState, ffmpeg: string): Promise<Gpu> => ({
  uuid: gpu.uuid,
  name: gpu.name,
  memoryBytes: BigInt(Math.round(gpu.memoryBytes ?? 0)),
  driverVersion: gpu.driverVersion,
  workingEncoders: (await encoderWorks(ffmpeg, "h264_nvenc", gpu.uuid)) ? ["h264_nvenc"] : [],
});
