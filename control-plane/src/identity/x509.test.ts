// Certificates and requests against Node's own reader, and against authorities that another version of this program made.
import { createPublicKey, generateKeyPairSync, X509Certificate } from "node:crypto";
import { expect, test } from "vitest";
import { openAuthority } from "./authority.ts";
import { makeAuthorityOfOld, makeRequest } from "./testing.ts";
import { readRequest, signCertificate } from "./x509.ts";

const newKey = () => generateKeyPairSync("ec", { namedCurve: "prime256v1" }).privateKey;

test("dates before and after 2050 are read by Node as they were written, in whole seconds", async () => {
  const key = newKey();
  const { pem } = await signCertificate({
    subject: "a",
    publicKey: createPublicKey(key),
    issuer: { key },
    use: "authority",
    names: [],
    notBefore: new Date(Date.UTC(2049, 11, 31, 23, 59, 59, 250)),
    notAfter: new Date(Date.UTC(2050, 0, 1, 0, 0, 0, 250)),
  });
  const read = new X509Certificate(pem);
  const [from, to] = [Date.UTC(2049, 11, 31, 23, 59, 59), Date.UTC(2050, 0, 1)];
  expect([Date.parse(read.validFrom), Date.parse(read.validTo)]).toEqual([from, to]);
  // RFC 5280 4.1.2.5.2 forbids fractions, and verifiers other than Node refuse the certificate for them.
  expect(read.raw.toString("latin1")).toContain("20500101000000Z");
});

test("a request reads back to the key that made it", async () => {
  const key = newKey();
  expect((await readRequest(await makeRequest(key))).equals(createPublicKey(key))).toBe(true);
});

test("an authority with another name and identifier of its key than ours issues certificates that belong to it", async () => {
  const saved = await makeAuthorityOfOld();
  const root = new X509Certificate(saved.certificate);
  const { authority } = await openAuthority(saved);
  const host = await authority.signHost(await makeRequest(newKey()), "h_01JD0000000000000000000000");
  const leaf = new X509Certificate(host.certificate);
  // checkIssued compares the names and the identifiers of the key.
  expect(leaf.checkIssued(root)).toBe(true);
  expect(leaf.verify(root.publicKey)).toBe(true);
});
