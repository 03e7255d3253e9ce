// The argument builder against fluent-ffmpeg's traps, versions as every build prints them, and canaries with the real FFmpeg.
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { ConfigError } from "@renderplane/proto/kernel/process/environment.ts";
import { afterAll, describe, expect, test } from "vitest";
import { checkFfmpeg, encoderWorks, ffmpegArguments, hasEspeak, parseVersion } from "./ffmpeg.ts";

const dir = mkdtempSync(path.join(tmpdir(), "renderplane-ffmpeg-"));
afterAll(() => rmSync(dir, { recursive: true, force: true }));
const fake = (name: string, script: string): string => {
  const file = path.join(dir, name);
  writeFileSync(file, `#!/bin/sh\n${script}\n`);
  chmodSync(file, 0o755);
  return file;
};
const problemOf = async (paths: { ffmpeg: string; ffprobe: string }): Promise<string> => {
  const error = await checkFfmpeg(paths).then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(ConfigError);
  return error instanceof ConfigError ? error.message : "";
};

describe("ffmpegArguments", () => {
  test("inputs, graph and outputs in order, one element an option, blanks and quotes untouched", async () => {
    const args = await ffmpegArguments({
      globals: ["-loglevel", "level+warning"],
      inputs: [
        { path: "inputs/000", options: ["-protocol_whitelist", "file", "-f", "flac"] },
        { path: "color=c=black:s=64x64", options: ["-f", "lavfi"] },
      ],
      graph: ["[1:v]drawbox=c=red[a]", "[a]null[v]"],
      outputs: [
        { path: "a.mp4", options: ["-map", "[v]", "-metadata", `title=it's "a b"`] },
        { path: "b.wav", options: ["-map", "0:a"] },
      ],
    });
    expect(args.filter((arg) => arg !== "-y")).toEqual([
      ...["-loglevel", "level+warning"],
      ...["-protocol_whitelist", "file", "-f", "flac", "-i", "inputs/000"],
      ...["-f", "lavfi", "-i", "color=c=black:s=64x64"],
      ...["-filter_complex", "[1:v]drawbox=c=red[a];[a]null[v]"],
      ...["-map", "[v]", "-metadata", `title=it's "a b"`, "a.mp4"],
      ...["-map", "0:a", "b.wav"],
    ]);
  });

  test("a lone option, which the builder would split at blanks, is refused", async () => {
    await expect(ffmpegArguments({ inputs: [{ path: "a", options: ["-re x"] }], outputs: [] })).rejects.toThrow(
      RangeError,
    );
    await expect(ffmpegArguments({ inputs: [], outputs: [{ path: "a", options: [] }] })).rejects.toThrow(RangeError);
  });
});

describe("parseVersion", () => {
  test.each([
    ["ffmpeg version 5.1.9-0+deb12u1 Copyright (c) 2000-2026 the FFmpeg developers", true],
    ["ffmpeg version 5.1 Copyright", true],
    ["ffmpeg version n7.1 Copyright", true],
    ["ffmpeg version 9.0.2-1 Copyright", true],
    ["ffprobe version 10.0 Copyright", true],
    ["ffmpeg version 5.0.3 Copyright", false],
    ["ffmpeg version 4.4.2-0ubuntu0.22.04.1 Copyright", false],
    ["ffmpeg version N-66595-gc2b38619c0\nlibavutil      59. 39.100 / 59. 39.100", true],
    ["ffmpeg version N-66595-gc2b38619c0\nlibavutil      56. 70.100 / 56. 70.100", false],
    ["ffmpeg version git-2020-01-01", false],
  ])("%s", (text, isEnough) => {
    expect(parseVersion(text)?.isEnough).toBe(isEnough);
  });

  test("anything else is no FFmpeg", () => {
    expect(parseVersion("GNU bash, version 5.2")).toBeUndefined();
  });
});

describe("checkFfmpeg", () => {
  test("the one of this machine", async () => {
    expect(await checkFfmpeg({ ffmpeg: "ffmpeg", ffprobe: "ffprobe" })).toMatch(/^[n\d]/);
  });

  test("missing: names the setting and the command", async () => {
    expect(await problemOf({ ffmpeg: "/nowhere/ffmpeg", ffprobe: "ffprobe" })).toBe(
      "FFmpeg was not found: /nowhere/ffmpeg (FFMPEG_PATH). Install it with: sudo apt-get install -y --no-install-recommends ffmpeg espeak-ng fonts-dejavu-core (Debian 12 or newer, Ubuntu 24.04), or set FFMPEG_PATH and FFPROBE_PATH.",
    );
    expect(await problemOf({ ffmpeg: "ffmpeg", ffprobe: "/nowhere/ffprobe" })).toMatch(
      /^ffprobe was not found: \/nowhere\/ffprobe \(FFPROBE_PATH\)/,
    );
  });

  test("too old: names what is needed and what was found", async () => {
    const old = fake("old", "echo 'ffmpeg version 4.4.2-0ubuntu0.22.04.1 Copyright (c) 2000-2021'");
    expect(await problemOf({ ffmpeg: old, ffprobe: "ffprobe" })).toMatch(
      /^FFmpeg 5\.1 or newer is needed, found 4\.4\.2-0ubuntu0\.22\.04\.1 at .*old \(FFMPEG_PATH\)\. Install it with: sudo apt-get/,
    );
  });

  test("broken, or another program: says what it said", async () => {
    const broken = fake("broken", "echo 'error while loading shared libraries: libavdevice.so.59' >&2; exit 127");
    expect(await problemOf({ ffmpeg: broken, ffprobe: "ffprobe" })).toContain("libavdevice.so.59");
    expect(await problemOf({ ffmpeg: "echo", ffprobe: "ffprobe" })).toMatch(/^FFmpeg does not run/);
  });
});

describe("canaries", () => {
  test("libx264 and aac prove themselves here; h264_nvenc is compiled in and does not work without a GPU", async () => {
    expect(await encoderWorks("ffmpeg", "libx264")).toBe(true);
    expect(await encoderWorks("ffmpeg", "aac")).toBe(true);
    expect(await encoderWorks("ffmpeg", "h264_nvenc", "GPU-00000000-0000-0000-0000-000000000000")).toBe(false);
  });

  test("the GPU's canary sees exactly the GPU that was named", async () => {
    const told = path.join(dir, "told");
    const spy = fake("spy", `echo "$CUDA_VISIBLE_DEVICES $*" > ${told}`);
    expect(await encoderWorks(spy, "h264_nvenc", "GPU-a")).toBe(true);
    expect(readFileSync(told, "utf8")).toMatch(/^GPU-a .*-c:v h264_nvenc -gpu 0 -f null -\n$/);
  });

  test("espeak-ng answers or is not there", async () => {
    expect(await hasEspeak("espeak-ng")).toBe(true);
    expect(await hasEspeak("/nowhere/espeak-ng")).toBe(false);
  });
});
