// Proves the catalogue against its own samples and the cases in which the exit code lies.
import { failureClasses, isFailureClass } from "@renderplane/proto/kernel/failure.ts";
import { maxEvidenceBytes } from "@renderplane/proto/kernel/limits.ts";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type ProcessEnd, StageFailure } from "../work/contract.ts";
import { classify, failOn, meanings } from "./exit.ts";
import catalogue from "./ffmpeg-errors.json" with { type: "json" };

const ffmpeg = (exitCode: number | null, stderr = "", signal: string | null = null) =>
  classify({ program: "ffmpeg", exitCode, signal, stderr });

describe("the catalogue", () => {
  test.each(catalogue.map((rule) => [rule.id, rule] as const))(
    "%s matches its sample and has a known class",
    (_, rule) => {
      expect(new RegExp(rule.pattern, rule.flags).test(rule.sample)).toBe(true);
      const meaning = meanings[rule.class];
      expect(meaning).toBeDefined();
      for (const failureClass of [meaning?.failed, meaning?.clean])
        expect(failureClass === undefined || isFailureClass(failureClass)).toBe(true);
    },
  );

  test("ids and priorities are unique, so the first match is one match", () => {
    expect(new Set(catalogue.map((rule) => rule.id)).size).toBe(catalogue.length);
    expect(new Set(catalogue.map((rule) => rule.priority)).size).toBe(catalogue.length);
  });

  test.each(catalogue.filter((rule) => rule.scope.startsWith("stderr")).map((rule) => [rule.id, rule] as const))(
    "%s: its sample alone, in a failed run, is never agent_bug unless the rule says so",
    (_, rule) => {
      const found = ffmpeg(1, `[mp4 @ 0x55d0] [warning] something else\n${rule.sample}\n`);
      expect(found).toBeDefined();
      if (found?.failureClass === "agent_bug") expect(meanings[rule.class]?.failed).toBe("agent_bug");
    },
  );
});

describe("classify", () => {
  test.each([
    ["a clean end", 0, "", null, undefined],
    [
      "disk full with exit 0",
      0,
      "[mp4 @ 0x1] [error] Error writing trailer of out.mp4: No space left on device",
      null,
      "disk_full",
    ],
    [
      "truncated input with exit 0",
      0,
      "[mov,mp4 @ 0x1] [error] stream 0, offset 0x30: partial file",
      null,
      "input_corrupt",
    ],
    ["empty output with exit 0", 0, "[warning] Output file is empty, nothing was encoded", null, "output_invalid"],
    [
      "concealed damage with exit 0",
      0,
      "[h264 @ 0x1] [error] error while decoding MB 1 2, bytestream 3",
      null,
      undefined,
    ],
    ["a missing glyph with exit 0", 0, "[ass @ 0x1] failed to find any fallback with glyph 0x1F600", null, undefined],
    [
      "session limit before the wrapper",
      187,
      "[h264_nvenc @ 0x1] [error] OpenEncodeSessionEx failed: incompatible client key (21): (no details)\n[h264_nvenc @ 0x1] [error] No capable devices found",
      null,
      "encoder_sessions",
    ],
    ["no driver", 255, "[AVHWDeviceContext @ 0x1] [error] Cannot load libcuda.so.1", null, "encoder_unavailable"],
    ["killed", null, "", "SIGKILL", "killed"],
    ["killed, as a shell says it", 137, "", null, "killed"],
    ["crash", null, "", "SIGSEGV", "crashed"],
    ["a signal without a rule", null, "", "SIGTERM", "killed"],
    ["program missing", 127, "sh: 1: exec: ffmpeg: not found", null, "missing_program"],
    [
      "library missing",
      127,
      "ffmpeg: error while loading shared libraries: libavdevice.so.59: cannot open shared object file: No such file or directory",
      null,
      "host_fault",
    ],
    [
      "corrupt input",
      183,
      "[mov,mp4 @ 0x1] [error] moov atom not found\n[error] in.mp4: Invalid data found when processing input",
      null,
      "input_corrupt",
    ],
    ["nothing known", 42, "a line of a program that nobody knows", null, "unknown"],
    ["nothing at all", 1, "", null, "unknown"],
  ] as const)("%s", (_, exitCode, stderr, signal, expected) => {
    expect(ffmpeg(exitCode, stderr, signal)?.failureClass).toBe(expected);
  });

  test("the message names the act, the cause and the exit, without addresses", () => {
    expect(ffmpeg(183, "[mov,mp4 @ 0x5581] [error] moov atom not found")?.message).toBe(
      'ffmpeg failed, an input file cannot be read: "[mov,mp4] [error] moov atom not found" (exit 183)',
    );
  });

  test("evidence is bounded in bytes, keeps the end and cuts no character", () => {
    const found = ffmpeg(1, `${"ü€".repeat(20_000)}\nthe last line`);
    expect(Buffer.byteLength(found?.evidence ?? "")).toBeLessThanOrEqual(maxEvidenceBytes);
    expect(found?.evidence.endsWith("the last line")).toBe(true);
    expect(found?.evidence).not.toContain("\uFFFD");
  });

  test("property: it is total, and a failed process is never called a success", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 255 }), fc.string(), (exitCode, stderr) => {
        const found = ffmpeg(exitCode, stderr);
        expect(found !== undefined && Object.hasOwn(failureClasses, found.failureClass)).toBe(true);
      }),
    );
  });
});

test("failOn throws a StageFailure with class, evidence and exit, and is silent for a good end", () => {
  const end: ProcessEnd = {
    exitCode: 228,
    signal: null,
    stdout: "",
    stderr: "[error] av_interleaved_write_frame(): No space left on device",
    stdoutPath: "",
    stderrPath: "",
    elapsedMs: 1,
  };
  expect(() => failOn(end, "the render")).toThrow(StageFailure);
  expect(() => failOn(end, "the render")).toThrow(/^the render failed, the scratch disk of the host is full/);
  expect(() => failOn({ ...end, exitCode: 0, stderr: "" }, "the render")).not.toThrow();
});
