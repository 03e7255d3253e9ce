// A stage that only waits or fails as it is told: load tests and simulations time the system around it without FFmpeg. It is in no
// inventory unless RENDERPLANE_AGENT_TRIAL_STAGES is set, so that no pipeline can send production work into nothing.
// Keeps: it follows its signal at once, and waits once across agent restarts, like a stage that does something.
import { setTimeout as pause } from "node:timers/promises";
import { type FailureClass, isFailureClass } from "@renderplane/proto/kernel/failure.ts";
import { z } from "zod";
import { StageFailure, type StageKind } from "../work/contract.ts";
import { readFields } from "./fields.ts";

/** Longest requested wait, in seconds of wall clock. */
const maxSeconds = 3_600;
const trialParams = z.object({
  seconds: z.number().min(0).max(maxSeconds).default(0),
  /** The class to fail with after the wait. */
  fail: z
    .custom<FailureClass>((value) => typeof value === "string" && isFailureClass(value), "must be a failure class")
    .optional(),
});

export const trialStage: StageKind = {
  kind: "trial",
  run: async (context) => {
    const { seconds, fail } = readFields(trialParams, context.params, "params");
    await context.once("wait", async () => {
      await pause(seconds * 1000, undefined, { signal: context.signal });
      return {};
    });
    if (fail !== undefined) throw new StageFailure(fail, `The trial was told to fail as ${fail}.`);
    return { result: { seconds }, outputs: [] };
  },
};
