// The one profile of X.509 that this fleet uses: P-256, ECDSA with SHA-256, a root that signs leaves directly.
// Builds certificates and signing requests and reads requests; who may have one is decided elsewhere. Nothing but the public
// key is ever taken from a request: names, extensions and attributes that it asks for are not even decoded.
import { createHash, createPublicKey, type KeyObject, randomBytes, sign, verify } from "node:crypto";
import { isIP } from "node:net";
import { der, readChildren, readDer } from "./der.ts";
import { RenderplaneError } from "./errors.ts";

const oid = {
  ecdsaWithSha256: "1.2.840.10045.4.3.2",
  commonName: "2.5.4.3",
  subjectKeyIdentifier: "2.5.29.14",
  keyUsage: "2.5.29.15",
  subjectAltName: "2.5.29.17",
  basicConstraints: "2.5.29.19",
  authorityKeyIdentifier: "2.5.29.35",
  extendedKeyUsage: "2.5.29.37",
  serverAuth: "1.3.6.1.5.5.7.3.1",
  clientAuth: "1.3.6.1.5.5.7.3.2",
} as const;

/** A P-256 request is about 300 bytes; more is refused before it is read. */
const maxRequestBytes = 8 * 1024;

export type AltName = { readonly uri: string } | { readonly dns: string } | { readonly ip: string };

export type CertificatePlan = {
  readonly subject: string;
  readonly issuer: string;
  readonly publicKey: KeyObject;
  readonly issuerPublicKey: KeyObject;
  readonly issuerKey: KeyObject;
  readonly use: "authority" | "server" | "client";
  readonly names: readonly AltName[];
  readonly notBefore: Date;
  readonly notAfter: Date;
};

/** 32 lower-case hex digits. First bit 0 and second 1: positive, and always 16 bytes in every tool's notation. */
const makeSerial = (): string => {
  const bytes = randomBytes(16);
  bytes[0] = ((bytes[0] ?? 0) & 0x3f) | 0x40;
  return bytes.toString("hex");
};

export const signCertificate = (plan: CertificatePlan): { readonly serial: string; readonly pem: string } => {
  const serial = makeSerial();
  const algorithm = der.sequence(der.oid(oid.ecdsaWithSha256));
  const body = der.sequence(
    der.explicit(0, der.integer(2n)),
    der.integer(BigInt(`0x${serial}`)),
    algorithm,
    nameOf(plan.issuer),
    der.sequence(der.time(plan.notBefore), der.time(plan.notAfter)),
    nameOf(plan.subject),
    spkiOf(plan.publicKey),
    der.explicit(3, der.sequence(...extensionsOf(plan))),
  );
  const signed = der.sequence(body, algorithm, der.bits(sign("sha256", body, plan.issuerKey)));
  return { serial, pem: toPem(signed) };
};

const extensionsOf = (plan: CertificatePlan): Buffer[] => {
  const isAuthority = plan.use === "authority";
  // Bits of RFC 5280 4.2.1.3: digitalSignature is the first, keyCertSign and cRLSign the sixth and seventh.
  const usage = isAuthority ? der.bits(Buffer.from([0x06]), 1) : der.bits(Buffer.from([0x80]), 7);
  const extensions = [
    extension(
      oid.basicConstraints,
      isAuthority ? der.sequence(der.boolean(true), der.integer(0n)) : der.sequence(),
      true,
    ),
    extension(oid.keyUsage, usage, true),
    extension(oid.subjectKeyIdentifier, der.octets(keyIdOf(plan.publicKey))),
    extension(oid.authorityKeyIdentifier, der.sequence(der.implicit(0, keyIdOf(plan.issuerPublicKey)))),
  ];
  if (!isAuthority)
    extensions.push(
      extension(oid.extendedKeyUsage, der.sequence(der.oid(plan.use === "client" ? oid.clientAuth : oid.serverAuth))),
    );
  if (plan.names.length > 0) extensions.push(extension(oid.subjectAltName, der.sequence(...plan.names.map(altNameOf))));
  return extensions;
};

const extension = (id: string, value: Uint8Array, isCritical = false): Buffer =>
  der.sequence(der.oid(id), ...(isCritical ? [der.boolean(true)] : []), der.octets(value));

const nameOf = (commonName: string): Buffer =>
  der.sequence(der.set(der.sequence(der.oid(oid.commonName), der.utf8(commonName))));

const altNameOf = (name: AltName): Buffer => {
  if ("uri" in name) return der.implicit(6, Buffer.from(name.uri, "ascii"));
  if ("dns" in name) return der.implicit(2, Buffer.from(name.dns, "ascii"));
  return der.implicit(7, ipBytes(name.ip));
};

const ipBytes = (text: string): Buffer => {
  if (isIP(text) === 4) return Buffer.from(text.split(".").map(Number));
  // The URL parser brings every notation of an IPv6 address to one; `::` then stands for what is missing.
  const [head = "", tail] = new URL(`http://[${text}]`).hostname.slice(1, -1).split("::");
  const groups = (part: string | undefined) => (part ? part.split(":") : []);
  const zeros = 8 - groups(head).length - groups(tail).length;
  const all = tail === undefined ? groups(head) : [...groups(head), ...Array(zeros).fill("0"), ...groups(tail)];
  return Buffer.from(all.map((group) => group.padStart(4, "0")).join(""), "hex");
};

/** PKCS#10 in DER for this key. It asks for no name: the control plane gives the name. */
export const makeRequest = (privateKey: KeyObject): Buffer => {
  const info = der.sequence(der.integer(0n), der.sequence(), spkiOf(createPublicKey(privateKey)), der.explicit(0));
  const algorithm = der.sequence(der.oid(oid.ecdsaWithSha256));
  return der.sequence(info, algorithm, der.bits(sign("sha256", info, privateKey)));
};

/** Checks the request's signature over itself and returns its key: P-256, or invalid_request. */
export const readRequest = (csr: Uint8Array): KeyObject => {
  const refuse = (detail: string, cause?: unknown): never => {
    throw new RenderplaneError("invalid_request", `csr: ${detail}`, {
      fields: [{ pointer: "/csr", detail }],
      ...(cause === undefined ? {} : { cause }),
    });
  };
  if (csr.length > maxRequestBytes) return refuse(`is ${csr.length} bytes, at most ${maxRequestBytes} are read`);
  try {
    const [info, , signature] = readChildren(readDer(csr));
    const spki = info && readChildren(info)[2];
    if (!info || !spki || signature?.tag !== 0x03) return refuse("expected a PKCS#10 request in DER");
    const key = createPublicKey({ key: spki.raw, format: "der", type: "spki" });
    if (key.asymmetricKeyType !== "ec" || key.asymmetricKeyDetails?.namedCurve !== "prime256v1")
      return refuse("the key must be on the curve P-256");
    if (!verify("sha256", info.raw, key, signature.content.subarray(1)))
      return refuse("the signature does not match the key that it carries");
    return key;
  } catch (error) {
    if (error instanceof RenderplaneError) throw error;
    return refuse("expected a PKCS#10 request in DER", error);
  }
};

export const spkiOf = (key: KeyObject): Buffer => key.export({ type: "spki", format: "der" });
export const sha256Of = (bytes: Uint8Array): Buffer => createHash("sha256").update(bytes).digest();

// Method 1 of RFC 5280 4.2.1.2 with a stronger digest, cut to its length.
const keyIdOf = (key: KeyObject): Buffer => sha256Of(spkiOf(key)).subarray(0, 20);

const toPem = (bytes: Buffer): string =>
  `-----BEGIN CERTIFICATE-----\n${bytes
    .toString("base64")
    .replace(/.{64}(?=.)/g, "$&\n")}\n-----END CERTIFICATE-----\n`;
