// nvidia-smi as it really answers: none, GeForce, H100, MIG, lost and resetting GPUs, old drivers, and one that hangs for ever.
// The answers are in the form of captures from drivers 470 to 610; the program around them is a real process.
import { spawn } from "node:child_process";
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { createGpuReader, readGpus } from "./gpu.ts";

const dir = mkdtempSync(path.join(tmpdir(), "renderplane-gpu-"));
afterAll(() => rmSync(dir, { recursive: true, force: true }));
const smi = (name: string, script: string): string => {
  const file = path.join(dir, name);
  writeFileSync(file, `#!/bin/sh\n${script}\n`);
  chmodSync(file, 0o755);
  return file;
};
const saying = (name: string, text: string, exitCode = 0): string =>
  smi(name, `cat <<'END'\n${text}\nEND\nexit ${exitCode}`);
const mib = 1024 * 1024;

describe("readGpus", () => {
  test("no NVIDIA software is no fault", async () => {
    expect(await readGpus("/nowhere/nvidia-smi")).toEqual({ gpus: [], fault: undefined });
  });

  test("a GeForce", async () => {
    const program = saying(
      "geforce",
      "GPU-5f3a6c1e-1111-2222-3333-444455556666, NVIDIA GeForce RTX 4080 SUPER, 595.45, 16376, 812, 7, 64, 51, 88.20, [N/A]",
    );
    const { gpus, fault } = await readGpus(program);
    expect(fault).toBeUndefined();
    expect(gpus).toHaveLength(1);
    expect(gpus[0]).toMatchObject({
      uuid: "GPU-5f3a6c1e-1111-2222-3333-444455556666",
      name: "NVIDIA GeForce RTX 4080 SUPER",
      driverVersion: "595.45",
      memoryBytes: 16376 * mib,
      memoryUsedBytes: 812 * mib,
      temperatureCelsius: 51,
      powerWatts: 88.2,
      isMig: false,
    });
    expect(gpus[0]?.used).toBeCloseTo(0.07);
    expect(gpus[0]?.encoderUsed).toBeCloseTo(0.64);
  });

  test("an H100 tells 0 for an encoder that it does not have: only the canary knows", async () => {
    const program = saying(
      "h100",
      "GPU-aaaaaaaa-1111-2222-3333-444455556666, NVIDIA H100 80GB HBM3, 590.44, 81559, 0, 0, 0, 29, 69.17, Disabled",
    );
    expect((await readGpus(program)).gpus[0]).toMatchObject({
      name: "NVIDIA H100 80GB HBM3",
      encoderUsed: 0,
      isMig: false,
    });
  });

  test("in MIG mode loads are unknown, not zero", async () => {
    const program = saying(
      "mig",
      "GPU-bbbbbbbb-1111-2222-3333-444455556666, NVIDIA H200, 590.44, 143771, 20, [N/A], [N/A], 31, 75.80, Enabled",
    );
    expect((await readGpus(program)).gpus[0]).toMatchObject({ used: null, encoderUsed: null, isMig: true });
  });

  test("a lost GPU is a fault and the other goes on", async () => {
    const program = saying(
      "lost",
      "Unable to determine the device handle for GPU 0000:01:00.0: GPU is lost.  Reboot the system to recover this GPU\nGPU-cccccccc-1111-2222-3333-444455556666, NVIDIA L4, 580.1, 23034, 1, 0, 0, 40, 16.5, [N/A]",
      15,
    );
    const { gpus, fault } = await readGpus(program);
    expect(gpus.map((gpu) => gpu.name)).toEqual(["NVIDIA L4"]);
    expect(fault).toContain("GPU is lost");
  });

  test("a GPU that wants a reset is not given to anybody", async () => {
    const program = saying(
      "reset",
      "GPU-dddddddd-1111-2222-3333-444455556666, NVIDIA L4, 580.1, [GPU requires reset], [GPU requires reset], 0, 0, 40, 16.5, [N/A]",
    );
    const { gpus, fault } = await readGpus(program);
    expect(gpus).toEqual([]);
    expect(fault).toContain("requires reset");
  });

  test("a comma in a name costs that row and is told", async () => {
    const program = saying(
      "comma",
      "GPU-eeeeeeee-1111-2222-3333-444455556666, Brand, Model X, 580.1, 23034, 1, 0, 0, 40, 16.5, [N/A]",
    );
    expect(await readGpus(program)).toMatchObject({ gpus: [], fault: expect.stringContaining("Brand, Model X") });
  });

  test("a field that the driver does not know is left out and the rest is asked again", async () => {
    const program = smi(
      "old-driver",
      `case "$1" in *utilization.encoder*) echo 'Field "utilization.encoder" is not a valid field to query.'; exit 2;; esac
echo "GPU-ffffffff-1111-2222-3333-444455556666, Tesla T4, 470.57.02, 15109, 3, 0, 36, 9.71, [N/A]"`,
    );
    expect((await readGpus(program)).gpus[0]).toMatchObject({
      name: "Tesla T4",
      encoderUsed: null,
      temperatureCelsius: 36,
    });
  });

  test("a driver that does not match, or no device, is told", async () => {
    const mismatch = saying("mismatch", "Failed to initialize NVML: Driver/library version mismatch", 18);
    expect(await readGpus(mismatch)).toMatchObject({ gpus: [], fault: expect.stringContaining("version mismatch") });
    expect(await readGpus(saying("nodevices", "No devices were found", 6))).toEqual({
      gpus: [],
      fault: "nvidia-smi ended with 6",
    });
  });

  test("while an earlier one has not ended, in the kernel where no signal reaches it, no other is started", async () => {
    const program = smi("counted", `echo started >>${dir}/starts; sleep 0.3; echo "No devices were found"`);
    const starts = () => readFileSync(path.join(dir, "starts"), "utf8").split("\n").length - 1;
    // Stands for a process in uninterruptible sleep.
    const wedged = spawn("sleep", ["60"]);
    const living = new Set([wedged]);
    const read = createGpuReader(program, 5_000, living);
    expect(await read()).toEqual({ gpus: [], fault: expect.stringContaining("has not ended") });
    expect(existsSync(path.join(dir, "starts"))).toBe(false);
    wedged.kill("SIGKILL");
    living.clear();
    await Promise.all([read(), read(), read()]);
    expect(starts()).toBe(1);
    await read();
    expect(starts()).toBe(2);
    expect(living.size).toBe(0);
  });

  test("one that hangs and ignores every polite signal does not hold the agent", async () => {
    const program = smi("hung", "trap '' TERM INT; exec sleep 60");
    const before = performance.now();
    expect(await readGpus(program, 1_000)).toEqual({ gpus: [], fault: "nvidia-smi did not answer in 1 s" });
    expect(performance.now() - before).toBeLessThan(5_000);
  });
});
