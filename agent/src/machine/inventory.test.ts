// The inventory and the health of this machine against what the system's own files say, and with a fake GPU host.
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import os, { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { createHealthReader, parseCpuTimes, parseMeminfo, readHealth } from "./health.ts";
import { readHostNames } from "./host-names.ts";
import { type InventoryConfig, readInventory } from "./inventory.ts";

const dir = mkdtempSync(path.join(tmpdir(), "renderplane-inventory-"));
afterAll(() => rmSync(dir, { recursive: true, force: true }));
const script = (name: string, text: string): string => {
  const file = path.join(dir, name);
  writeFileSync(file, `#!/bin/sh\n${text}\n`);
  chmodSync(file, 0o755);
  return file;
};
const config: InventoryConfig = {
  ffmpegPath: "ffmpeg",
  ffprobePath: "ffprobe",
  espeakPath: "espeak-ng",
  scratchDir: dir,
  stageKinds: ["render", "speech"],
  providers: ["tts.espeak", "openai.chat"],
  nvidiaSmiPath: "/nowhere/nvidia-smi",
};
const smi = () =>
  script(
    "nvidia-smi",
    `echo "GPU-aaaaaaaa-1111-2222-3333-444455556666, NVIDIA L4, 580.1, 23034, 1, 50, 20, 40, 16.5, [N/A]"`,
  );

describe("readInventory", () => {
  test("this machine without a GPU", async () => {
    const inventory = await readInventory(config);
    expect(inventory).toMatchObject({
      hostname: os.hostname(),
      arch: os.arch(),
      cores: os.availableParallelism(),
      gpus: [],
      workingEncoders: ["libx264", "aac"],
      stageKinds: ["render", "speech"],
      providers: ["tts.espeak", "openai.chat"],
    });
    expect(inventory.cpuModel).not.toBe("");
    expect(Number(inventory.memoryBytes)).toBeGreaterThan(256 * 1024 * 1024);
    expect(Number(inventory.memoryBytes)).toBeLessThanOrEqual(os.totalmem());
    expect(Number(inventory.scratchBytes)).toBeGreaterThan(0);
  });

  test("a GPU counts as encoder only after its canary: here nvidia-smi lists one, and FFmpeg cannot use it", async () => {
    const inventory = await readInventory({ ...config, nvidiaSmiPath: smi() });
    expect(inventory.gpus).toEqual([
      expect.objectContaining({ name: "NVIDIA L4", memoryBytes: 23034n * 1024n * 1024n, workingEncoders: [] }),
    ]);
    expect(inventory.workingEncoders).not.toContain("h264_nvenc");
  });

  test("a voice that is not installed is not offered", async () => {
    const inventory = await readInventory({ ...config, espeakPath: "/nowhere/espeak-ng" });
    expect(inventory.providers).toEqual(["openai.chat"]);
  });
});

describe("health", () => {
  test("one reading of this machine lies within its bounds", async () => {
    const health = await readHealth(dir);
    expect(health.cpuUsed).toBeGreaterThanOrEqual(0);
    expect(health.cpuUsed).toBeLessThanOrEqual(1);
    expect(Number(health.memoryUsedBytes)).toBeGreaterThan(0);
    expect(Number(health.memoryUsedBytes)).toBeLessThan(os.totalmem());
    expect(Number(health.scratchFreeBytes)).toBeGreaterThan(0);
    expect(Number(health.agentRssBytes)).toBeGreaterThan(10 * 1024 * 1024);
    expect(health.gpus).toEqual([]);
  });

  test("a busy core shows in the next reading", async () => {
    const read = createHealthReader(dir);
    await read();
    const end = performance.now() + 300;
    while (performance.now() < end) Math.sqrt(end);
    expect((await read()).cpuUsed).toBeGreaterThan(0.5 / os.cpus().length);
  });

  test("GPUs are told where there are some", async () => {
    const health = await createHealthReader(dir, { nvidiaSmi: smi() })();
    expect(health.gpus).toEqual([
      {
        uuid: "GPU-aaaaaaaa-1111-2222-3333-444455556666",
        used: 0.5,
        memoryUsedBytes: 1024n * 1024n,
        temperatureCelsius: 40,
        encoderUsed: 0.2,
        powerWatts: 16.5,
      },
    ]);
  });

  test("the kernel's files", () => {
    expect(parseCpuTimes("cpu  100 0 50 800 50 0 0 0 30 0\ncpu0 1 2 3 4\n")).toEqual({ busy: 150, total: 1_000 });
    expect(parseMeminfo("MemTotal:       1000 kB\nMemFree:  1 kB\nMemAvailable:    400 kB\n")).toEqual({
      totalBytes: 1_024_000,
      usedBytes: 614_400,
    });
    expect(parseMeminfo(readFileSync("/proc/meminfo", "utf8")).totalBytes).toBeGreaterThan(0);
  });
});

describe("readHostNames", () => {
  const plain = { os: `${os.type()} ${os.release()}`, cpuModel: os.cpus()[0]?.model ?? "unknown" };
  const program = (name: string, text: string): string => {
    const file = path.join(dir, name);
    writeFileSync(file, text);
    return file;
  };

  test("the library's answer, with nothing of it in this process", async () => {
    const names = await readHostNames();
    expect(names.os).toMatch(/^\S+ .+/);
    expect(names.cpuModel).not.toBe("");
    expect(
      Object.keys(createRequire(import.meta.url).cache).filter((file) => file.includes("systeminformation")),
    ).toEqual([]);
  });

  test("a program that fails, says nothing usable or half of it leaves Node's own words", async () => {
    expect(await readHostNames(program("fails.mjs", "process.exit(1)"))).toEqual(plain);
    expect(await readHostNames(program("noise.mjs", 'console.log("null")'))).toEqual(plain);
    const half = program("half.mjs", 'console.log(JSON.stringify({ os: 7, cpuModel: "x".repeat(1000) }))');
    expect(await readHostNames(half)).toEqual({ os: plain.os, cpuModel: "x".repeat(200) });
  });

  test("the program gets nothing of this process's environment but the way to programs", async () => {
    const tells = program("tells.mjs", "console.log(JSON.stringify({ os: Object.keys(process.env).join() }))");
    expect((await readHostNames(tells)).os).toBe("PATH");
  });
});
