// Stage kind `cleanup`: frees what only this job needed on the host: the prepared clips and the merged file, told by the result of
// storage_upload and never downloaded for it. Only this host's copies: on others the cache makes room by itself, oldest first.
// The package is stored when this runs, so nothing that goes wrong here may take the finished video back.
import { z } from "zod";
import type { StageKind } from "../work/contract.ts";
import { readFields } from "./fields.ts";
import { intermediatesSchema } from "./merge-clips.ts";

const storeResult = z.object({ intermediates: intermediatesSchema });

export const cleanupStage: StageKind = {
  kind: "cleanup",
  run: async (context) => {
    const { intermediates } = readFields(storeResult, context.results.storage_upload, "results.storage_upload");
    // Two clips may be the same file.
    const digests = [...new Set(intermediates.map((file) => file.sha256))];
    // Once: a second run would find nothing left and report that nothing was freed.
    const freed = await context.once("release", async () => {
      let [files, bytes] = [0, 0];
      for (const digest of digests) {
        const size = await context.release([digest]).catch((error: unknown) => {
          context.log.warn({ err: error, sha256: digest }, "an intermediate file was not freed");
          return 0;
        });
        files += size > 0 ? 1 : 0;
        bytes += size;
      }
      return { files, bytes };
    });
    context.progress({ fraction: 1, step: `freed ${freed.files} files` });
    // Left: on other hosts, still used by a live attempt, or gone already.
    return {
      result: { files_freed: freed.files, bytes_freed: freed.bytes, files_left: digests.length - freed.files },
      outputs: [],
    };
  },
};
