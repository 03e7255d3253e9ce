// For tests: signing requests as agents send them, and as agents of this project never would.
import "reflect-metadata";
import { createPublicKey, type KeyObject } from "node:crypto";
import { BasicConstraintsExtension, Pkcs10CertificateRequestGenerator } from "@peculiar/x509";

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
