// For tests: signing requests as agents send them and as agents of this project never would, and an authority of another version.
// With x509.ts the only file of the control plane that knows the library for certificates.
import "reflect-metadata";
import { createPublicKey, generateKeyPairSync, type KeyObject } from "node:crypto";
import {
  BasicConstraintsExtension,
  KeyUsageFlags,
  KeyUsagesExtension,
  Pkcs10CertificateRequestGenerator,
  SubjectKeyIdentifierExtension,
  X509CertificateGenerator,
} from "@peculiar/x509";

type Odd = {
  /** Asks for this name and to be an authority. */
  readonly asks?: string;
  readonly hash?: "SHA-256" | "SHA-384";
};

const importOf = (key: KeyObject, hash: string) =>
  key.asymmetricKeyType === "rsa"
    ? ({ name: "RSASSA-PKCS1-v1_5", hash } as const)
    : ({
        name: "ECDSA",
        namedCurve: key.asymmetricKeyDetails?.namedCurve === "secp384r1" ? "P-384" : "P-256",
        hash,
      } as const);

/** PKCS#10 in DER. */
export const makeRequest = async (key: KeyObject, { asks, hash = "SHA-256" }: Odd = {}): Promise<Buffer> => {
  const algorithm = importOf(key, hash);
  const request = await Pkcs10CertificateRequestGenerator.create({
    signingAlgorithm: algorithm,
    keys: {
      privateKey: key.toCryptoKey(algorithm, false, ["sign"]),
      publicKey: createPublicKey(key).toCryptoKey(algorithm, true, ["verify"]),
    },
    ...(asks === undefined
      ? {}
      : { name: [{ CN: [asks] }], extensions: [new BasicConstraintsExtension(true, undefined, true)] }),
  });
  return Buffer.from(request.rawData);
};

/** A saved authority whose name and whose identifier of its key are not what this version would choose. */
export const makeAuthorityOfOld = async (): Promise<{ readonly key: string; readonly certificate: string }> => {
  const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "prime256v1" });
  const algorithm = importOf(privateKey, "SHA-256");
  const certificate = await X509CertificateGenerator.createSelfSigned({
    name: [{ CN: ["An authority of old"] }],
    signingAlgorithm: algorithm,
    keys: {
      privateKey: privateKey.toCryptoKey(algorithm, false, ["sign"]),
      publicKey: publicKey.toCryptoKey(algorithm, true, ["verify"]),
    },
    extensions: [
      new BasicConstraintsExtension(true, 0, true),
      new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true),
      new SubjectKeyIdentifierExtension("5a".repeat(20)),
    ],
  });
  return {
    key: privateKey.export({ type: "pkcs8", format: "pem" }).toString(),
    certificate: certificate.toString("pem"),
  };
};
