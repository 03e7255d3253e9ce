// Turns a join token into an identity. The server is known before the secret leaves this host: its chain must contain the
// authority whose key has the token's pin, and the call then trusts that authority alone, names included.
import { createHash, X509Certificate } from "node:crypto";
import { isIP } from "node:net";
import { connect, type DetailedPeerCertificate } from "node:tls";
import { Metadata } from "@grpc/grpc-js";
import { type EnrolResponse, EnrolServiceClient } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import type { Inventory } from "@renderplane/proto/gen/renderplane/v1/types.ts";
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { parseJoinToken } from "@renderplane/proto/kernel/join-token.ts";
import { channelTo, splitAddress } from "./client.ts";
import { fromGrpc } from "./errors.ts";
import { enrolmentKey, type Identity, pemOf, saveIdentity } from "./identity.ts";
import { makeRequest } from "./signing-request.ts";

const callLimitMs = 10_000;
/** A chain is our leaf and our authority; a longer one is somebody else's. */
const maxChain = 5;

export type Enrolment = {
  readonly dir: string;
  readonly name: string;
  readonly address: string;
  readonly token: string;
  readonly inventory: Inventory;
};

/** One try; stores the identity. Throws a RenderplaneError: `unavailable` may pass, the rest needs a person. */
export const enrol = async ({ dir, name, address, token, inventory }: Enrolment): Promise<Identity> => {
  const { pin } = parseJoinToken(token);
  const authority = await authorityOf(address, pin);
  const key = await enrolmentKey(dir);
  const csr = await makeRequest(key);
  const channel = channelTo(address, authority);
  const client = new EnrolServiceClient(address, channel.credentials, channel.options);
  try {
    const request = { token: token.trim(), csr, name, inventory };
    const response = await new Promise<EnrolResponse>((resolve, reject) => {
      client.enrol(request, new Metadata(), { deadline: Date.now() + callLimitMs }, (error, answer) =>
        error ? reject(fromGrpc(error)) : resolve(answer),
      );
    });
    const identity: Identity = {
      version: 1,
      hostId: response.hostId,
      key: pemOf(key),
      certificate: response.certificate,
      authorities: response.authorities,
      sessionAddress: reachable(response.sessionAddress, address),
    };
    await saveIdentity(dir, identity);
    return identity;
  } finally {
    client.close();
  }
};

/** PEM of the certificate in the server's chain whose key has this pin. Nothing is trusted yet, and nothing but TLS is spoken. */
const authorityOf = async (address: string, pin: string): Promise<string> => {
  for (const raw of await chainOf(address)) {
    const certificate = new X509Certificate(raw);
    const spki = certificate.publicKey.export({ type: "spki", format: "der" });
    if (certificate.ca && createHash("sha256").update(spki).digest("base64url") === pin) return certificate.toString();
  }
  throw new RenderplaneError(
    "certificate_refused",
    `the server at ${address} is not the control plane that issued this join token (its authority has another key); ` +
      "check RENDERPLANE_ENROL_ADDRESS or ask for a new token. The token was not sent",
  );
};

const chainOf = (address: string): Promise<Buffer[]> =>
  new Promise((resolve, reject) => {
    const { host, port } = splitAddress(address);
    const socket = connect({
      host,
      port,
      ...(isIP(host) ? {} : { servername: host }),
      ALPNProtocols: ["h2"],
      // The one place without verification: the pin is compared with what arrives here, and the call that follows verifies.
      rejectUnauthorized: false,
      timeout: callLimitMs,
    });
    const fail = (reason: string, cause?: unknown) => {
      socket.destroy();
      const message = `the control plane cannot be reached at ${address}: ${reason}`;
      reject(new RenderplaneError("unavailable", message, cause === undefined ? {} : { cause }));
    };
    socket.on("secureConnect", () => {
      const chain: Buffer[] = [];
      let at: DetailedPeerCertificate | undefined = socket.getPeerCertificate(true);
      while (at?.raw && chain.length < maxChain) {
        chain.push(at.raw);
        at = at.issuerCertificate === at ? undefined : at.issuerCertificate;
      }
      socket.destroy();
      resolve(chain);
    });
    socket.on("timeout", () => fail(`no answer in ${callLimitMs / 1000} s`));
    socket.on("error", (error) => fail(error.message, error));
  });

/** A listener on every address cannot name the one by which this host reaches it: the one that just worked stands in. */
const reachable = (sessionAddress: string, enrolAddress: string): string => {
  const { host, port } = splitAddress(sessionAddress);
  if (host !== "0.0.0.0" && host !== "::" && host !== "") return sessionAddress;
  return `${enrolAddress.slice(0, enrolAddress.lastIndexOf(":"))}:${port}`;
};
