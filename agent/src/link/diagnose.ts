// Why no session opens, in one sentence for the log. gRPC says only "unavailable" for a closed port, a foreign server and a refused
// client certificate alike; this looks once with plain TLS and tells them apart. It decides only how slowly to try again.
import { X509Certificate } from "node:crypto";
import { isIP } from "node:net";
import { connect } from "node:tls";
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { splitAddress } from "./client.ts";
import { type Identity, identityPath } from "./identity.ts";

const limitMs = 3000;

/** What the plain TLS connection showed. `greeted`: the server went on to speak HTTP/2, as it does with a client it accepts. */
type Sight = { readonly greeted: true } | { readonly closed: true } | { readonly error: NodeJS.ErrnoException };

export const diagnose = async (address: string, identity: Identity, dir: string): Promise<RenderplaneError> => {
  const again = `move ${identityPath(dir)} away and enrol again with RENDERPLANE_JOIN_TOKEN`;
  const { validTo } = new X509Certificate(identity.certificate);
  if (Date.parse(validTo) < Date.now())
    return new RenderplaneError("certificate_refused", `this host's certificate expired at ${validTo}; ${again}`);
  const sight = await look(address, identity);
  if ("greeted" in sight)
    return new RenderplaneError(
      "unavailable",
      `the control plane at ${address} answers, but no session opened in time`,
    );
  if ("closed" in sight)
    return new RenderplaneError(
      "certificate_refused",
      `the control plane at ${address} does not accept this host's certificate (it was issued by another authority); ${again}`,
    );
  const { code = "", message } = sight.error;
  if (code === "ERR_TLS_CERT_ALTNAME_INVALID")
    return new RenderplaneError(
      "certificate_refused",
      `the control plane's certificate is not made for ${address}; add that name to the control plane's server names`,
    );
  if (foreignChain.has(code))
    return new RenderplaneError(
      "certificate_refused",
      `the server at ${address} is not the control plane that this host enrolled at (${code}); check RENDERPLANE_SESSION_ADDRESS, or ${again}`,
    );
  return new RenderplaneError("unavailable", `the control plane cannot be reached at ${address}: ${message}`);
};

const foreignChain = new Set([
  "UNABLE_TO_VERIFY_LEAF_SIGNATURE",
  "SELF_SIGNED_CERT_IN_CHAIN",
  "DEPTH_ZERO_SELF_SIGNED_CERT",
  "UNABLE_TO_GET_ISSUER_CERT",
  "UNABLE_TO_GET_ISSUER_CERT_LOCALLY",
  "CERT_SIGNATURE_FAILURE",
]);

const look = (address: string, identity: Identity): Promise<Sight> =>
  new Promise((resolve) => {
    const { host, port } = splitAddress(address);
    const socket = connect({
      host,
      port,
      ...(isIP(host) ? {} : { servername: host }),
      ca: identity.authorities,
      key: identity.key,
      cert: identity.certificate,
      ALPNProtocols: ["h2"],
      timeout: limitMs,
    });
    let isSecure = false;
    const settle = (sight: Sight) => {
      socket.destroy();
      resolve(sight);
    };
    socket.on("secureConnect", () => {
      isSecure = true;
    });
    socket.on("data", () => settle({ greeted: true }));
    // With TLS 1.3 the client is done before the server has judged its certificate: a refusal looks like a hang-up.
    socket.on("error", (error) => settle(isSecure ? { closed: true } : { error }));
    socket.on("close", () => settle(isSecure ? { closed: true } : { error: new Error("the connection was closed") }));
    socket.on("timeout", () => settle({ error: new Error(`no answer in ${limitMs / 1000} s`) }));
  });
