// How this host feels right now, for heartbeats: CPU, memory, scratch disk, GPUs. Read from /proc and cgroup files only, because
// it runs every few seconds for ever; nothing here starts a process unless the host has NVIDIA software.
// CPU is a difference of two readings, so a reader has a lifetime; `readHealth` is the one-shot form.
import { readFile, statfs } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import type { Health } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import { createGpuReader, type GpuReading } from "./gpu.ts";

/** A second reading needs some ticks of the kernel's clock (10 ms each) to say anything. */
const oneShotMs = 100;

/** What the host itself says; the rest of Health is the agent's own state. */
export type HostHealth = Omit<Health, "unacknowledgedEnds" | "isDraining">;
export type HealthReader = () => Promise<HostHealth>;

/** `nvidiaSmi` undefined: GPUs are not asked (the inventory found none). */
export const createHealthReader = (scratchDir: string, options: { readonly nvidiaSmi?: string } = {}): HealthReader => {
  let before: CpuTimes = { busy: 0, total: 0 };
  const none: GpuReading = { gpus: [], fault: undefined };
  const readGpus = options.nvidiaSmi === undefined ? async () => none : createGpuReader(options.nvidiaSmi);
  return async () => {
    const [cpu, memory, disk, reading] = await Promise.all([
      readCpuTimes(),
      readMemory(),
      statfs(scratchDir),
      readGpus(),
    ]);
    const total = cpu.total - before.total;
    const cpuUsed = total > 0 ? Math.min(1, Math.max(0, (cpu.busy - before.busy) / total)) : 0;
    before = cpu;
    return {
      cpuUsed,
      memoryUsedBytes: BigInt(memory.usedBytes),
      scratchFreeBytes: BigInt(disk.bavail) * BigInt(disk.bsize),
      gpus: reading.gpus.map((gpu) => ({
        uuid: gpu.uuid,
        used: gpu.used ?? 0,
        memoryUsedBytes: BigInt(Math.round(gpu.memoryUsedBytes ?? 0)),
        temperatureCelsius: gpu.temperatureCelsius ?? 0,
        encoderUsed: gpu.encoderUsed ?? 0,
        powerWatts: gpu.powerWatts ?? 0,
      })),
      agentRssBytes: BigInt(process.memoryUsage.rss()),
      loadAverage: os.loadavg()[0] ?? 0,
    };
  };
};

/** One reading over a tenth of a second. */
export const readHealth = async (scratchDir: string): Promise<HostHealth> => {
  const read = createHealthReader(scratchDir);
  await read();
  await new Promise((resolve) => setTimeout(resolve, oneShotMs));
  return read();
};

type CpuTimes = { readonly busy: number; readonly total: number };

const readCpuTimes = async (): Promise<CpuTimes> => parseCpuTimes(await readFile("/proc/stat", "utf8"));

/** user nice system idle iowait irq softirq steal; guest time is already in user. */
export const parseCpuTimes = (stat: string): CpuTimes => {
  const ticks = (/^cpu +(.+)$/m.exec(stat)?.[1] ?? "").split(" ").slice(0, 8).map(Number);
  const total = ticks.reduce((sum, value) => sum + value, 0);
  return { busy: total - (ticks[3] ?? 0) - (ticks[4] ?? 0), total };
};

export type Memory = { readonly totalBytes: number; readonly usedBytes: number };

/** The host's memory, or the cgroup's where it is smaller. Page cache that can be dropped is not used memory. */
export const readMemory = async (): Promise<Memory> => {
  const host = parseMeminfo(await readFile("/proc/meminfo", "utf8"));
  const limit = process.constrainedMemory();
  if (limit === 0 || limit >= host.totalBytes) return host;
  const used = await readCgroupMemory();
  return { totalBytes: limit, usedBytes: Math.min(limit, used ?? host.usedBytes) };
};

export const parseMeminfo = (meminfo: string): Memory => {
  const kib = (name: string): number => Number(new RegExp(`^${name}: +(\\d+) kB`, "m").exec(meminfo)?.[1] ?? 0);
  const totalBytes = kib("MemTotal") * 1024;
  return { totalBytes, usedBytes: totalBytes - kib("MemAvailable") * 1024 };
};

/** cgroup v2 only; undefined elsewhere. */
const readCgroupMemory = async (): Promise<number | undefined> => {
  try {
    const own = /^0::(.+)$/m.exec(await readFile("/proc/self/cgroup", "utf8"))?.[1] ?? "/";
    const folder = path.join("/sys/fs/cgroup", own);
    const [current, stat] = await Promise.all([
      readFile(path.join(folder, "memory.current"), "utf8"),
      readFile(path.join(folder, "memory.stat"), "utf8"),
    ]);
    return Math.max(0, Number(current) - Number(/^inactive_file (\d+)$/m.exec(stat)?.[1] ?? 0));
  } catch {
    return undefined;
  }
};
