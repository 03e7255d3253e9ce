// The signed addresses of artifacts, /artifacts/<sha256>: agents read inputs here and put outputs, resumed where they broke
// off. Who may do what was decided when the address was signed; digests are checked by the store.
// Invariant: a file is visible here only whole and verified, and no byte moves without a valid signature.

import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { sha256Pattern } from "@renderplane/proto/kernel/limits.ts";
import { Hono } from "hono";
import { withoutDestroying } from "./body.ts";
import type { HttpEnv } from "./guards.ts";
import type { HttpContext } from "./operations.ts";
import { serveArtifact } from "./ranges.ts";

export const artifactRoutes = ({ artifacts, signer }: Pick<HttpContext, "artifacts" | "signer">): Hono<HttpEnv> => {
  const app = new Hono<HttpEnv>();

  // Also serves HEAD. With the query of a PUT it answers how far the upload has come.
  app.get("/artifacts/:sha256", async (c) => {
    const sha256 = digestOf(c.req.param("sha256"));
    const query = new URL(c.req.url).searchParams;
    if (c.req.method === "HEAD" && query.has("size")) {
      signer.verify({ method: "PUT", sha256, query });
      return uploadState(200, await artifacts.offset(sha256));
    }
    signer.verify({ method: "GET", sha256, query });
    return serveArtifact(c, artifacts, { sha256, mediaType: "application/octet-stream" });
  });

  app.put("/artifacts/:sha256", async (c) => {
    const sha256 = digestOf(c.req.param("sha256"));
    const query = new URL(c.req.url).searchParams;
    signer.verify({ method: "PUT", sha256, query });
    const state = await artifacts.receive({
      sha256,
      sizeBytes: wholeNumber(query.get("size") ?? "", "size"),
      offset: wholeNumber(c.req.header("upload-offset") ?? "0", "Upload-Offset"),
      bytes: withoutDestroying(c.env.incoming),
    });
    return uploadState(state.isComplete ? 201 : 202, state);
  });
  return app;
};

const uploadState = (status: number, state: { readonly received: number; readonly isComplete: boolean }): Response =>
  new Response(null, {
    status,
    headers: {
      "upload-offset": String(state.received),
      "upload-complete": state.isComplete ? "?1" : "?0",
      "cache-control": "no-store",
    },
  });

const digestOf = (text: string): string => {
  if (!sha256Pattern.test(text))
    throw new RenderplaneError(
      "artifact_not_found",
      "An artifact's address ends in its sha256, 64 hexadecimal digits.",
    );
  return text;
};

const wholeNumber = (text: string, what: string): number => {
  if (!/^\d{1,15}$/.test(text))
    throw new RenderplaneError(
      "invalid_request",
      `${what} must be a whole number of bytes, got ${JSON.stringify(text.slice(0, 40))}.`,
    );
  return Number(text);
};
