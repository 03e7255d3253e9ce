// Stage kind `store`: the package of a merge as one folder that explains and proves itself: video.mp4, segments.json,
// manifest.json and checksums that `sha256sum -c` verifies. The upload itself is what the end of every stage does: an attempt
// succeeds only when the artifact store has verified each of these files. No byte of the video changes here.
import { createHash } from "node:crypto";
import { writeFile } from "node:fs/promises";
import path from "node:path";
import { z } from "zod";
import type { StageKind } from "../work/contract.ts";
import { compressedName } from "./compress.ts";
import { inputOf, readFields } from "./fields.ts";
import { segmentsName } from "./merge.ts";
import { intermediatesSchema, mergeRequest } from "./merge-clips.ts";
import { placeFile } from "./place-file.ts";

const manifestName = "manifest.json";
const checksumsName = "checksums.sha256";
const mediaTypes: { readonly [name: string]: string } = {
  [compressedName]: "video/mp4",
  [segmentsName]: "application/json",
  [manifestName]: "application/json",
  [checksumsName]: "text/plain; charset=utf-8",
};

const compressionResult = z.object({
  width: z.number().int(),
  height: z.number().int(),
  duration: z.number().positive(),
  frames: z.number().int(),
  fps: z.number().positive(),
  clips: z.number().int(),
  intermediates: intermediatesSchema,
});

type Packed = { readonly name: string; readonly media_type: string; readonly size: number; readonly sha256: string };

export const storeStage: StageKind = {
  kind: "store",
  run: async (context) => {
    const { title } = readFields(mergeRequest, context.request, "request");
    const compression = readFields(compressionResult, context.results.compression, "results.compression");
    const { intermediates, ...facts } = compression;
    const files: Packed[] = [];
    for (const name of [compressedName, segmentsName]) {
      const input = inputOf(context, "compression", name);
      await placeFile(path.join(context.dir, input.path), path.join(context.dir, name));
      files.push({ name, media_type: mediaTypeOf(name), size: input.sizeBytes, sha256: input.sha256 });
    }
    const manifest = `${JSON.stringify({ job: context.jobId, title: title ?? null, ...facts, files }, null, 2)}\n`;
    await writeFile(path.join(context.dir, manifestName), manifest);
    files.push({
      name: manifestName,
      media_type: mediaTypeOf(manifestName),
      size: Buffer.byteLength(manifest),
      sha256: createHash("sha256").update(manifest).digest("hex"),
    });
    await writeFile(
      path.join(context.dir, checksumsName),
      files.map((file) => `${file.sha256}  ${file.name}\n`).join(""),
    );
    return {
      result: { upload_ready: true, ...facts, files, intermediates },
      outputs: Object.entries(mediaTypes).map(([name, mediaType]) => ({ name, path: name, mediaType })),
    };
  },
};

const mediaTypeOf = (name: string): string => mediaTypes[name] ?? "application/octet-stream";
