// The program behind signing-request.ts: a private key comes in (stdin, PKCS#8 in DER), a signing request goes out (stdout, PKCS#10
// in DER), and the process ends. The only file of the agent that knows the library for certificates; nothing may import it.
import "reflect-metadata";
import { createPrivateKey, createPublicKey } from "node:crypto";
import { buffer } from "node:stream/consumers";
import { Pkcs10CertificateRequestGenerator } from "@peculiar/x509";

const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;

const key = createPrivateKey({ key: await buffer(process.stdin), format: "der", type: "pkcs8" });
const request = await Pkcs10CertificateRequestGenerator.create({
  signingAlgorithm: algorithm,
  keys: {
    privateKey: key.toCryptoKey(algorithm, false, ["sign"]),
    publicKey: createPublicKey(key).toCryptoKey(algorithm, true, ["verify"]),
  },
});
process.stdout.write(new Uint8Array(request.rawData));
