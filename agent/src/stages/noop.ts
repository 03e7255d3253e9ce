// The smallest real stage: one FFmpeg process that makes nothing. Benchmarks and engine tests time the system around it,
// so it must stay one process, one step and no files.
import { z } from "zod";
import { StageFailure, type StageKind } from "../work/contract.ts";
import { readFields } from "./fields.ts";

/** Longest requested run, in seconds of wall clock; tests of leases and stops hold a stage open with it. */
const maxSeconds = 3_600;
const noopParams = z.object({ seconds: z.number().min(0).max(maxSeconds).optional() });

export const noopStage: StageKind = {
  kind: "noop",
  run: async (context) => {
    const { seconds } = readFields(noopParams, context.params, "params");
    // Without `seconds` one frame as fast as possible; with it `-re` makes the process last that long.
    const source = seconds === undefined ? "nullsrc=size=16x16:rate=25" : "nullsrc=size=16x16:rate=5";
    const end = await context.process("noop", {
      program: "ffmpeg",
      args: [
        "-loglevel",
        "level+warning",
        ...(seconds === undefined ? [] : ["-re"]),
        ...["-f", "lavfi", "-i", source],
        ...(seconds === undefined ? ["-frames:v", "1"] : ["-t", String(seconds)]),
        ...["-f", "null", "-"],
      ],
      progress: { label: "waiting", totalMs: Math.max(1, (seconds ?? 0.04) * 1000), from: 0, to: 1 },
    });
    if (end.exitCode !== 0)
      throw new StageFailure(
        end.exitCode === 127 ? "missing_program" : "unknown",
        `FFmpeg ended with ${end.exitCode ?? end.signal} in the noop stage. Check that ffmpeg runs on this host.`,
        { evidence: end.stderr.slice(-4096), exit: String(end.exitCode ?? end.signal) },
      );
    return { result: { seconds: seconds ?? 0 }, outputs: [] };
  },
};
