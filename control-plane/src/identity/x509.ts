// The one profile of X.509 that this fleet uses: P-256, ECDSA with SHA-256, a root that signs leaves directly.
// The only file of the control plane that knows the library for certificates; keys go in and out as node:crypto's, text as PEM.
// Nothing but the public key is ever taken from a signing request: names, extensions and attributes that it asks for are ignored.
// Who may have a certificate is decided elsewhere.
import "reflect-metadata";
import { createPublicKey, type KeyObject, randomBytes } from "node:crypto";
import { isIP } from "node:net";
import {
  AuthorityKeyIdentifierExtension,
  BasicConstraintsExtension,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  type Extension,
  type JsonGeneralNames,
  KeyUsageFlags,
  KeyUsagesExtension,
  Name,
  Pkcs10CertificateRequest,
  SubjectAlternativeNameExtension,
  SubjectKeyIdentifierExtension,
  X509Certificate,
  X509CertificateGenerator,
} from "@peculiar/x509";
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";

const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;

/** A P-256 request is about 300 bytes; more is refused before it is read. */
const maxRequestBytes = 8 * 1024;

export type AltName = { readonly uri: string } | { readonly dns: string } | { readonly ip: string };

export type CertificatePlan = {
  readonly subject: string;
  readonly publicKey: KeyObject;
  /** Without a certificate of its own the issuer is the subject: it signs itself. */
  readonly issuer: { readonly certificate?: string; readonly key: KeyObject };
  readonly use: "authority" | "server" | "client";
  readonly names: readonly AltName[];
  readonly notBefore: Date;
  readonly notAfter: Date;
};

export const signCertificate = async (
  plan: CertificatePlan,
): Promise<{ readonly serial: string; readonly pem: string }> => {
  const serial = makeSerial();
  const issuer = plan.issuer.certificate === undefined ? undefined : new X509Certificate(plan.issuer.certificate);
  const subject = new Name([{ CN: [plan.subject] }]);
  const certificate = await X509CertificateGenerator.create({
    serialNumber: serial,
    subject,
    issuer: issuer?.subjectName ?? subject,
    publicKey: spkiOf(plan.publicKey),
    signingKey: plan.issuer.key.toCryptoKey(algorithm, false, ["sign"]),
    signingAlgorithm: algorithm,
    notBefore: plan.notBefore,
    notAfter: plan.notAfter,
    extensions: await extensionsOf(plan, issuer),
  });
  return { serial, pem: `${certificate.toString("pem")}\n` };
};

/** 32 lower-case hex digits. First bit 0 and second 1: positive, and always 16 bytes in every tool's notation. */
const makeSerial = (): string => {
  const bytes = randomBytes(16);
  bytes[0] = ((bytes[0] ?? 0) & 0x3f) | 0x40;
  return bytes.toString("hex");
};

const extensionsOf = async (plan: CertificatePlan, issuer: X509Certificate | undefined): Promise<Extension[]> => {
  const isAuthority = plan.use === "authority";
  const usage = isAuthority ? KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign : KeyUsageFlags.digitalSignature;
  const own = await SubjectKeyIdentifierExtension.create(spkiOf(plan.publicKey));
  // Verifiers compare this with what the issuer's certificate says, not with its key: read it there.
  const issuerKeyId = issuer ? issuer.getExtension(SubjectKeyIdentifierExtension)?.keyId : own.keyId;
  const extensions: Extension[] = [
    isAuthority ? new BasicConstraintsExtension(true, 0, true) : new BasicConstraintsExtension(false, undefined, true),
    new KeyUsagesExtension(usage, true),
    own,
  ];
  if (issuerKeyId !== undefined) extensions.push(new AuthorityKeyIdentifierExtension(issuerKeyId));
  if (!isAuthority)
    extensions.push(
      new ExtendedKeyUsageExtension([
        plan.use === "client" ? ExtendedKeyUsage.clientAuth : ExtendedKeyUsage.serverAuth,
      ]),
    );
  if (plan.names.length > 0) extensions.push(new SubjectAlternativeNameExtension(plan.names.map(altNameOf)));
  return extensions;
};

const altNameOf = (name: AltName): JsonGeneralNames[number] => {
  if ("uri" in name) return { type: "url", value: name.uri };
  if ("dns" in name) return { type: "dns", value: name.dns };
  // The library misreads an IPv6 address that ends like an IPv4 one; the URL parser brings every notation to groups of hex.
  return { type: "ip", value: isIP(name.ip) === 6 ? new URL(`http://[${name.ip}]`).hostname.slice(1, -1) : name.ip };
};

/** Checks the request's signature over itself and returns its key: P-256, or invalid_request. */
export const readRequest = async (csr: Uint8Array): Promise<KeyObject> => {
  if (csr.length > maxRequestBytes) throw refusal(`is ${csr.length} bytes, at most ${maxRequestBytes} are read`);
  try {
    const request = new Pkcs10CertificateRequest(csr);
    // The library also reads PEM and hexadecimal text; the contract says DER.
    if (!Buffer.from(request.rawData).equals(csr)) throw refusal("expected a PKCS#10 request in DER");
    const key = createPublicKey({ key: Buffer.from(request.publicKey.rawData), format: "der", type: "spki" });
    if (key.asymmetricKeyType !== "ec" || key.asymmetricKeyDetails?.namedCurve !== "prime256v1")
      throw refusal("the key must be on the curve P-256");
    // With a key on P-256 the verification below can only be ECDSA; the digest is the request's own choice.
    if (request.signatureAlgorithm.hash?.name !== algorithm.hash)
      throw refusal("the request must be signed with SHA-256");
    if (!(await request.verify())) throw refusal("the signature does not match the key that it carries");
    return key;
  } catch (error) {
    if (error instanceof RenderplaneError) throw error;
    throw refusal("expected a PKCS#10 request in DER", error);
  }
};

const refusal = (detail: string, cause?: unknown): RenderplaneError =>
  new RenderplaneError("invalid_request", `csr: ${detail}`, {
    fields: [{ pointer: "/csr", detail }],
    ...(cause === undefined ? {} : { cause }),
  });

/** SubjectPublicKeyInfo in DER: what pins and fingerprints are taken of. */
export const spkiOf = (key: KeyObject): Buffer<ArrayBuffer> => Buffer.from(key.export({ type: "spki", format: "der" }));
