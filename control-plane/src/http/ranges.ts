// Answers with a stored artifact: whole, one byte range, not modified, or 416. One place for both addresses of an artifact.
// Content is addressed by its sha256, which is therefore its strong ETag and never changes.
// Invariant: a HEAD never opens the file, and nothing that a caller uploaded is shown as a page by a browser.
import { Readable } from "node:stream";
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import type { Context } from "hono";
import type { ArtifactStore } from "../artifacts/artifact-store.ts";
import type { HttpEnv } from "./guards.ts";
import { problemResponse } from "./problem.ts";

export type Served = { readonly sha256: string; readonly mediaType: string; readonly fileName?: string };

export const serveArtifact = async (c: Context<HttpEnv>, artifacts: ArtifactStore, file: Served): Promise<Response> => {
  const size = await artifacts.size(file.sha256);
  if (size === undefined)
    throw new RenderplaneError("artifact_not_found", "The bytes of this artifact are not in the store.");
  const etag = `"${file.sha256}"`;
  const headers = new Headers({
    etag,
    "accept-ranges": "bytes",
    "content-type": file.mediaType,
    "cache-control": "private, max-age=31536000, immutable",
    ...(file.fileName === undefined ? {} : { "content-disposition": disposition(file.fileName, file.mediaType) }),
  });
  if (hasTag(c.req.header("if-none-match"), etag)) return new Response(null, { status: 304, headers });

  const isRangeMeant = (c.req.header("if-range") ?? etag) === etag;
  const range = isRangeMeant ? parseRange(c.req.header("range"), size) : undefined;
  if (range === "unsatisfiable") {
    const refused = new RenderplaneError(
      "range_not_satisfiable",
      `The file has ${size} bytes; the range asks for others.`,
    );
    const answer = problemResponse(refused, { path: c.req.path, traceId: c.get("traceId") });
    answer.headers.set("content-range", `bytes */${size}`);
    return answer;
  }
  const length = range === undefined ? size : range.end - range.start + 1;
  headers.set("content-length", String(length));
  if (range !== undefined) headers.set("content-range", `bytes ${range.start}-${range.end}/${size}`);
  const status = range === undefined ? 200 : 206;
  if (c.req.method === "HEAD" || length === 0) return new Response(null, { status, headers });
  const bytes = await artifacts.read(file.sha256, range);
  return new Response(Readable.toWeb(bytes) as ReadableStream<Uint8Array>, { status, headers });
};

/** One range only: several in one header, and what is not bytes, are answered with the whole file, as RFC 9110 allows. */
export const parseRange = (
  header: string | undefined,
  size: number,
): { readonly start: number; readonly end: number } | "unsatisfiable" | undefined => {
  const match = /^bytes=(\d{0,15})-(\d{0,15})$/.exec(header?.trim() ?? "");
  if (!match || (match[1] === "" && match[2] === "")) return undefined;
  const [from, to] = [match[1] ?? "", match[2] ?? ""];
  if (from === "") {
    const last = Math.min(Number(to), size);
    return last === 0 ? "unsatisfiable" : { start: size - last, end: size - 1 };
  }
  const start = Number(from);
  const end = to === "" ? size - 1 : Math.min(Number(to), size - 1);
  if (to !== "" && Number(to) < start) return undefined;
  return start >= size ? "unsatisfiable" : { start, end };
};

/** Browsers play and show media in place; everything else is saved, so that no uploaded text runs as a page of this origin. */
export const disposition = (fileName: string, mediaType: string): string => {
  const how = /^(video|audio)\/|^image\/(jpeg|png|webp)$/.test(mediaType) ? "inline" : "attachment";
  const plain = fileName.replace(/[^A-Za-z0-9 ._-]/g, "_");
  const exact = encodeURIComponent(fileName).replace(
    /['()*!]/g,
    (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`,
  );
  return `${how}; filename="${plain}"${plain === fileName ? "" : `; filename*=UTF-8''${exact}`}`;
};

const hasTag = (header: string | undefined, etag: string): boolean =>
  (header?.split(",") ?? []).some((tag) => tag.trim() === "*" || tag.trim().replace(/^W\//, "") === etag);
