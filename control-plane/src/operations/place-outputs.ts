// Tells a host where to put the outputs of a live attempt. What the store has already needs no upload.
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { artifactNamePattern, maxOutputsPerStage, sha256Pattern } from "@renderplane/proto/kernel/limits.ts";
import { readAttempt } from "../store/attempts.ts";
import type { Context } from "./context.ts";
import type { Upload } from "./submit-job.ts";

/** An upload that takes longer asks again. */
const uploadTtlMs = 60 * 60_000;

/** Throws lease_lost, invalid_request. An url of "" means that the bytes are there. */
export const placeOutputs = async (
  ctx: Context,
  r: {
    readonly hostId: string;
    readonly attemptId: string;
    readonly fence: bigint;
    readonly outputs: readonly Upload[];
  },
): Promise<{ sha256: string; url: string }[]> => {
  const attempt = await readAttempt(ctx.db.direct, r.attemptId);
  if (!attempt || attempt.hostId !== r.hostId || attempt.fence !== r.fence || attempt.state !== "running")
    throw new RenderplaneError(
      "lease_lost",
      `attempt ${r.attemptId} does not hold its stage any more; discard its outputs`,
    );
  if (r.outputs.length > maxOutputsPerStage)
    throw new RenderplaneError(
      "invalid_request",
      `a stage may have ${maxOutputsPerStage} outputs, got ${r.outputs.length}`,
    );
  return Promise.all(
    r.outputs.map(async ({ name, sha256, sizeBytes }) => {
      if (!artifactNamePattern.test(name) || !sha256Pattern.test(sha256))
        throw new RenderplaneError(
          "invalid_request",
          `output ${JSON.stringify(name.slice(0, 80))} has a name or checksum that is not allowed`,
        );
      const size = await ctx.artifacts.size(sha256);
      return {
        sha256,
        url: size === sizeBytes ? "" : ctx.signer.sign({ method: "PUT", sha256, sizeBytes, ttlMs: uploadTtlMs }),
      };
    }),
  );
};
