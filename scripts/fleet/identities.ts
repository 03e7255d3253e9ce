// Who simulated hosts are. Two ways, and every report says which: a join token and a signing request a host, through the
// enrolment listener as any host does it, or, for thousands, certificates signed with the authority of the database's own row. The
// sessions that follow are the same: mTLS with a certificate of its own for every host.
import { createHash, createPublicKey, generateKeyPairSync, X509Certificate } from "node:crypto";
import { isIP } from "node:net";
import { connect, type DetailedPeerCertificate } from "node:tls";
import { Metadata } from "@grpc/grpc-js";
import { type EnrolResponse, EnrolServiceClient } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import type { Inventory } from "@renderplane/proto/gen/renderplane/v1/types.ts";
import { parseJoinToken } from "@renderplane/proto/kernel/join-token.ts";
import { ulid } from "ulid";
import { channelTo, splitAddress } from "../../agent/src/link/client.ts";
import { fromGrpc, isPassing } from "../../agent/src/link/errors.ts";
import type { Identity } from "../../agent/src/link/identity.ts";
import { pause } from "../../agent/src/link/pace.ts";
import { inventoryRecord } from "../../control-plane/src/grpc/convert.ts";
import { openAuthority } from "../../control-plane/src/identity/authority.ts";
import { makeRequest } from "../../control-plane/src/identity/testing.ts";
import type { Tx } from "../../control-plane/src/store/database.ts";
import { installationValue } from "../../control-plane/src/store/installation.ts";

const callLimitMs = 10_000;
/** Enrolments that one control plane admits a second; more would only be sent away. */
const enrolTries = 60;

export type HostToBe = { readonly name: string; readonly inventory: Inventory };

/** Through the enrolment listener, one after another; a control plane that asks for time gets it. */
export const enrolHosts = async (
  hosts: readonly HostToBe[],
  at: { readonly address: string; readonly token: string; readonly signal: AbortSignal },
): Promise<Identity[]> => {
  const authority = await authorityOf(at.address, parseJoinToken(at.token).pin);
  const channel = channelTo(at.address, authority);
  const client = new EnrolServiceClient(at.address, channel.credentials, channel.options);
  try {
    const identities: Identity[] = [];
    for (const host of hosts) identities.push(await enrolOne(client, host, at));
    return identities;
  } finally {
    client.close();
  }
};

const enrolOne = async (
  client: EnrolServiceClient,
  { name, inventory }: HostToBe,
  { token, signal }: { readonly token: string; readonly signal: AbortSignal },
): Promise<Identity> => {
  const key = generateKeyPairSync("ec", { namedCurve: "prime256v1" }).privateKey;
  const csr = await makeRequest(key);
  for (let tries = 1; ; tries++) {
    signal.throwIfAborted();
    try {
      const response = await new Promise<EnrolResponse>((resolve, reject) => {
        client.enrol(
          { token, csr, name, inventory },
          new Metadata(),
          { deadline: Date.now() + callLimitMs },
          (error, answer) => (error ? reject(fromGrpc(error)) : resolve(answer)),
        );
      });
      return {
        version: 1,
        hostId: response.hostId,
        key: key.export({ type: "pkcs8", format: "pem" }).toString(),
        certificate: response.certificate,
        authorities: response.authorities,
        sessionAddress: response.sessionAddress,
      };
    } catch (error) {
      const passing = error as ReturnType<typeof fromGrpc>;
      if (tries >= enrolTries || !("code" in passing) || !isPassing(passing)) throw error;
      await pause(passing.retryAfterMs ?? 500, signal);
    }
  }
};

/** The certificate in the server's chain whose key has the pin of the join token. */
const authorityOf = (address: string, pin: string): Promise<string> =>
  new Promise((resolve, reject) => {
    const { host, port } = splitAddress(address);
    const socket = connect({
      host,
      port,
      ...(isIP(host) ? {} : { servername: host }),
      ALPNProtocols: ["h2"],
      // The pin is compared with what arrives here; the call that follows trusts only what it names.
      rejectUnauthorized: false,
      timeout: callLimitMs,
    });
    socket.on("secureConnect", () => {
      let at: DetailedPeerCertificate | undefined = socket.getPeerCertificate(true);
      for (let depth = 0; at?.raw && depth < 5; depth++) {
        const certificate = new X509Certificate(at.raw);
        const spki = createPublicKey(certificate.publicKey.export({ type: "spki", format: "pem" })).export({
          type: "spki",
          format: "der",
        });
        if (createHash("sha256").update(spki).digest("base64url") === pin) {
          socket.destroy();
          return resolve(certificate.toString());
        }
        at = at.issuerCertificate === at ? undefined : at.issuerCertificate;
      }
      socket.destroy();
      reject(new Error(`the server at ${address} is not the control plane that issued the join token`));
    });
    socket.on("timeout", () => {
      socket.destroy();
      reject(new Error(`${address} did not answer in ${callLimitMs / 1000} s`));
    });
    socket.on("error", reject);
  });

/** Rows and certificates at once. The database must be one that the caller owns: the authority's key is read from it. */
export const signHosts = async (
  hosts: readonly HostToBe[],
  at: { readonly sql: Tx; readonly sessionAddress: string },
): Promise<Identity[]> => {
  const saved = await installationValue(at.sql, "authority", async () => {
    throw new Error("the control plane has made no authority in this database; start it once before hosts are signed");
  });
  const { authority } = await openAuthority(saved);
  const rows: {
    id: string;
    name: string;
    inventory: unknown;
    serial: string;
    sha: string;
    pem: string;
    until: Date;
  }[] = [];
  const identities: Identity[] = [];
  for (const { name, inventory } of hosts) {
    const hostId = `h_${ulid()}`;
    const key = generateKeyPairSync("ec", { namedCurve: "prime256v1" }).privateKey;
    const signed = await authority.signHost(await makeRequest(key), hostId);
    rows.push({
      id: hostId,
      name,
      inventory: inventoryRecord(inventory),
      serial: signed.serial,
      sha: signed.publicKeySha256,
      pem: signed.certificate,
      until: signed.expiresAt,
    });
    identities.push({
      version: 1,
      hostId,
      key: key.export({ type: "pkcs8", format: "pem" }).toString(),
      certificate: signed.certificate,
      authorities: authority.authorities,
      sessionAddress: at.sessionAddress,
    });
  }
  const text = JSON.stringify(rows);
  await at.sql.query(
    `insert into hosts (id, name, inventory) select h.id, h.name, h.inventory
     from jsonb_to_recordset($1::jsonb) as h(id text, name text, inventory jsonb)`,
    [text],
  );
  await at.sql.query(
    `insert into certificates (serial, host_id, public_key_sha256, pem, expires_at) select h.serial, h.id, h.sha, h.pem, h.until
     from jsonb_to_recordset($1::jsonb) as h(id text, serial text, sha text, pem text, until timestamptz)`,
    [text],
  );
  return identities;
};
