// The installation's certificate authority: makes it once, signs certificates of hosts and of this server's own listeners.
// Its record lives in the store, so that all replicas share one authority and one pin; who may enrol is decided by operations.
// Invariant: a host certificate names exactly the host that the caller gave, whatever the signing request asked for.
import { createHash, createPrivateKey, generateKeyPairSync, type KeyObject, X509Certificate } from "node:crypto";
import { isIP } from "node:net";
import type { JsonObject } from "../domain/records.ts";
import { type AltName, readRequest, signCertificate, spkiOf } from "./x509.ts";

export type HostCertificate = {
  /** 32 lower-case hex digits. */
  readonly serial: string;
  /** PEM. */
  readonly certificate: string;
  /** Hex SHA-256 of the key's SubjectPublicKeyInfo: the same key asked again. */
  readonly publicKeySha256: string;
  readonly expiresAt: Date;
};

export type Authority = {
  /** base64url SHA-256 of the authority's SubjectPublicKeyInfo, the last part of every join token. */
  readonly pin: string;
  /** PEM bundle that agents trust. */
  readonly authorities: string;
  /** Checks the request's own signature; throws invalid_request. Names in the request are ignored. */
  signHost(csr: Uint8Array, hostId: string): Promise<HostCertificate>;
  /** A fresh key and certificate for this process, followed by the authority: agents look for the pin in the chain. */
  serverCredentials(names: readonly string[]): Promise<{ readonly key: string; readonly certificate: string }>;
};

/** Three days: the second line behind revocation, which is looked up in the store at every session. */
export const hostCertificateMs = 72 * 3_600_000;
/** Clocks of hosts may be behind by this much. */
const backdateMs = 5 * 60_000;
/** Made anew at every start; a process that runs longer than this must be restarted, and upgrades do that far earlier. */
const serverCertificateMs = 365 * 86_400_000;
const authorityMs = 10 * 365 * 86_400_000;

const authorityName = "Renderplane authority";
export const hostUri = (hostId: string): string => `renderplane://host/${hostId}`;
/** Always valid for the server, so that agents and the console on this machine need no setting. */
const loopbackNames = ["localhost", "127.0.0.1", "::1"] as const;

/** `saved` is an earlier `toSave` or undefined for a new authority. Throws when the record is damaged. */
export const openAuthority = async (
  saved: JsonObject | undefined,
  now: () => number = Date.now,
): Promise<{ readonly authority: Authority; readonly toSave: JsonObject }> => {
  const toSave = saved ?? (await makeRecord(now()));
  const { key: keyPem, certificate } = toSave;
  if (typeof keyPem !== "string" || typeof certificate !== "string")
    throw new Error("the saved authority has no key or no certificate; restore the row `authority` of `installation`");
  const key = createPrivateKey(keyPem);
  const root = new X509Certificate(certificate);
  if (!root.checkPrivateKey(key))
    throw new Error("the saved authority's key and certificate do not belong together; restore the row `authority`");
  const issuer = { certificate, key };

  const authority: Authority = {
    pin: fingerprintOf(root.publicKey).toString("base64url"),
    authorities: certificate,
    signHost: async (csr, hostId) => {
      const publicKey = await readRequest(csr);
      // Certificates count whole seconds; the same instant must be stored and signed.
      const expiresAt = new Date(Math.floor((now() + hostCertificateMs) / 1000) * 1000);
      const { serial, pem } = await signCertificate({
        subject: hostId,
        publicKey,
        issuer,
        use: "client",
        names: [{ uri: hostUri(hostId) }],
        notBefore: new Date(now() - backdateMs),
        notAfter: expiresAt,
      });
      return { serial, certificate: pem, publicKeySha256: fingerprintOf(publicKey).toString("hex"), expiresAt };
    },
    serverCredentials: async (names) => {
      const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "prime256v1" });
      const { pem } = await signCertificate({
        subject: "Renderplane control plane",
        publicKey,
        issuer,
        use: "server",
        names: [...new Set([...loopbackNames, ...names])].map(altNameOf),
        notBefore: new Date(now() - backdateMs),
        notAfter: new Date(now() + serverCertificateMs),
      });
      return { key: privateKey.export({ type: "pkcs8", format: "pem" }).toString(), certificate: pem + certificate };
    },
  };
  return { authority, toSave };
};

const altNameOf = (name: string): AltName => (isIP(name) ? { ip: name } : { dns: name });

const fingerprintOf = (publicKey: KeyObject): Buffer => createHash("sha256").update(spkiOf(publicKey)).digest();

const makeRecord = async (nowMs: number): Promise<JsonObject> => {
  const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "prime256v1" });
  const { pem } = await signCertificate({
    subject: authorityName,
    publicKey,
    issuer: { key: privateKey },
    use: "authority",
    names: [],
    notBefore: new Date(nowMs - backdateMs),
    notAfter: new Date(nowMs + authorityMs),
  });
  return { key: privateKey.export({ type: "pkcs8", format: "pem" }).toString(), certificate: pem };
};
