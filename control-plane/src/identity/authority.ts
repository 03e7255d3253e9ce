// The installation's certificate authority: makes it once, signs certificates of hosts and of this server's own listeners.
// Its record lives in the store, so that all replicas share one authority and one pin; who may enrol is decided by operations.
// Invariant: a host certificate names exactly the host that the caller gave, whatever the signing request asked for.
import { createPrivateKey, createPublicKey, generateKeyPairSync, X509Certificate } from "node:crypto";
import { isIP } from "node:net";
import { type AltName, readRequest, sha256Of, signCertificate, spkiOf } from "@renderplane/proto/kernel/certificate.ts";
import type { JsonObject } from "../store/rows.ts";

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
export const openAuthority = (
  saved: JsonObject | undefined,
  now: () => number = Date.now,
): { readonly authority: Authority; readonly toSave: JsonObject } => {
  const toSave = saved ?? makeRecord(now());
  const { key: keyPem, certificate } = toSave;
  if (typeof keyPem !== "string" || typeof certificate !== "string")
    throw new Error("the saved authority has no key or no certificate; restore the row `authority` of `installation`");
  const issuerKey = createPrivateKey(keyPem);
  const issuerPublicKey = createPublicKey(issuerKey);
  if (!new X509Certificate(certificate).checkPrivateKey(issuerKey))
    throw new Error("the saved authority's key and certificate do not belong together; restore the row `authority`");
  const issued = { issuer: authorityName, issuerKey, issuerPublicKey } as const;

  const authority: Authority = {
    pin: sha256Of(spkiOf(issuerPublicKey)).toString("base64url"),
    authorities: certificate,
    signHost: async (csr, hostId) => {
      const publicKey = readRequest(csr);
      // Certificates count whole seconds; the same instant must be stored and signed.
      const expiresAt = new Date(Math.floor((now() + hostCertificateMs) / 1000) * 1000);
      const { serial, pem } = signCertificate({
        ...issued,
        subject: hostId,
        publicKey,
        use: "client",
        names: [{ uri: hostUri(hostId) }],
        notBefore: new Date(now() - backdateMs),
        notAfter: expiresAt,
      });
      return { serial, certificate: pem, publicKeySha256: sha256Of(spkiOf(publicKey)).toString("hex"), expiresAt };
    },
    serverCredentials: async (names) => {
      const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "prime256v1" });
      const { pem } = signCertificate({
        ...issued,
        subject: "Renderplane control plane",
        publicKey,
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

const makeRecord = (nowMs: number): JsonObject => {
  const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "prime256v1" });
  const { pem } = signCertificate({
    subject: authorityName,
    issuer: authorityName,
    publicKey,
    issuerPublicKey: publicKey,
    issuerKey: privateKey,
    use: "authority",
    names: [],
    notBefore: new Date(nowMs - backdateMs),
    notAfter: new Date(nowMs + authorityMs),
  });
  return { key: privateKey.export({ type: "pkcs8", format: "pem" }).toString(), certificate: pem };
};
