// What every request passes before a route sees it: its ids, security headers, the Host, origin and address checks.
// It decides who may talk to this listener at all; it knows nothing of jobs. CORS stays off: no foreign page may read.
// Invariant: a page on another site can neither read answers (DNS rebinding) nor cause a change (cross-site request).
import { randomBytes } from "node:crypto";
import { isIP } from "node:net";
import type { HttpBindings } from "@hono/node-server";
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import type { MiddlewareHandler } from "hono";
import { secureHeaders } from "hono/secure-headers";

export type HttpEnv = { Bindings: HttpBindings; Variables: { requestId: string; traceId: string } };

const requestIdPattern = /^[A-Za-z0-9._:-]{1,128}$/;
const traceparentPattern = /^[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}$/;

/** Takes the caller's trace and request id when they are well formed, so that one id leads through both logs. */
export const identify = (): MiddlewareHandler<HttpEnv> => async (c, next) => {
  const traceId = traceparentPattern.exec(c.req.header("traceparent") ?? "")?.[1] ?? randomBytes(16).toString("hex");
  const given = c.req.header("x-request-id");
  const requestId = given !== undefined && requestIdPattern.test(given) ? given : traceId;
  c.set("traceId", traceId);
  c.set("requestId", requestId);
  await next();
  c.header("x-request-id", requestId);
};

/** No text that is stored has a NUL, and the database refuses to look for one. */
export const checkAddress = (): MiddlewareHandler<HttpEnv> => async (c, next) => {
  if (c.req.url.includes("%00"))
    throw new RenderplaneError(
      "invalid_request",
      "The address has a NUL character (%00); there is nothing by such a name.",
    );
  await next();
};

export const harden = (): MiddlewareHandler =>
  secureHeaders({
    // Nothing that this edge serves may run: not even a picture or a text that a caller uploaded.
    contentSecurityPolicy: { defaultSrc: ["'none'"], frameAncestors: ["'none'"], sandbox: [] },
    // Set by whoever ends TLS in front of us; on plain HTTP it would lie.
    strictTransportSecurity: false,
  });

/**
 * Host names that this listener answers to. `undefined`: any, because it is bound to an address of the network and may be
 * reached by names that only its owner knows.
 */
export const allowedHosts = (listenHost: string, publicUrl: string | undefined): ReadonlySet<string> | undefined => {
  if (!isLoopback(listenHost)) return undefined;
  const names = new Set(["localhost", "127.0.0.1", "[::1]", bracketed(listenHost)]);
  if (publicUrl !== undefined) names.add(new URL(publicUrl).hostname);
  return names;
};

export const checkHost = (hosts: ReadonlySet<string> | undefined): MiddlewareHandler<HttpEnv> => {
  return async (c, next) => {
    const name = new URL(c.req.url).hostname;
    if (hosts !== undefined && !hosts.has(name) && !name.endsWith(".localhost"))
      throw new RenderplaneError(
        "forbidden",
        `The Host header names ${name}, but this listener serves this machine only.`,
        { next: "Use 127.0.0.1 or localhost, or set RENDERPLANE_PUBLIC_URL to the address that people use." },
      );
    await next();
  };
};

const safeMethods = new Set(["GET", "HEAD", "OPTIONS"]);

/**
 * Refuses changes that a page of another site asks for. Browsers send Origin (and Sec-Fetch-Site) with every such request
 * and programs send neither, so no token is needed. An upgrade to a WebSocket counts as a change: CORS does not guard it.
 */
export const checkOrigin = (publicUrl: string | undefined): MiddlewareHandler<HttpEnv> => {
  const publicHost = publicUrl === undefined ? undefined : new URL(publicUrl).host;
  return async (c, next) => {
    const isUpgrade = c.req.header("upgrade") !== undefined;
    if (isUpgrade || !safeMethods.has(c.req.method)) {
      const origin = c.req.header("origin");
      const site = c.req.header("sec-fetch-site");
      const isForeign =
        (site !== undefined && site !== "same-origin" && site !== "none") ||
        (origin !== undefined && !isOneOf(origin, [new URL(c.req.url).host, publicHost]));
      if (isForeign)
        throw new RenderplaneError("forbidden", "A page of another site asked for this change; it was not done.", {
          next: "Send the request from the console of this control plane, or from a program without an Origin header.",
        });
    }
    await next();
  };
};

const isOneOf = (origin: string, hosts: readonly (string | undefined)[]): boolean =>
  URL.canParse(origin) && hosts.includes(new URL(origin).host);
const isLoopback = (host: string): boolean => host === "localhost" || host === "::1" || host.startsWith("127.");
const bracketed = (host: string): string => (isIP(host) === 6 ? `[${host}]` : host);
