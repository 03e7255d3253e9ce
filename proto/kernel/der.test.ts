// The encoding under certificates and requests, against Node's own reader and against noise.
import { createPublicKey, generateKeyPairSync, X509Certificate } from "node:crypto";
import fc from "fast-check";
import { expect, test } from "vitest";
import { makeRequest, readRequest, signCertificate } from "./certificate.ts";
import { der, readChildren, readDer } from "./der.ts";

test("the DER reader refuses what is not in its shortest form and never reads past the end", () => {
  expect(readDer(der.utf8("x".repeat(300))).content.length).toBe(300);
  for (const bytes of [
    [0x30, 0x80, 0, 0],
    [0x30, 0x81, 0x05, 1, 2, 3, 4, 5],
    [0x30, 0x05, 1],
    [0x30],
    [0x02, 1, 1, 0x02, 1, 1],
  ])
    expect(() => readDer(Buffer.from(bytes))).toThrow(RangeError);
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
      try {
        expect(readDer(bytes).raw.length).toBe(bytes.length);
      } catch (error) {
        expect(error).toBeInstanceOf(RangeError);
      }
    }),
  );
});

test("lengths, integers and object identifiers read back whatever their size", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 70_000 }), (content) => {
      expect(readDer(der.octets(content)).content.equals(Buffer.from(content))).toBe(true);
    }),
    { numRuns: 30 },
  );
  fc.assert(
    fc.property(fc.bigInt({ min: 0n, max: 1n << 160n }), (value) => {
      const { content } = readDer(der.integer(value));
      expect((content[0] ?? 0) & 0x80).toBe(0);
      expect(BigInt(`0x${content.toString("hex")}`)).toBe(value);
    }),
  );
  expect(der.oid("1.2.840.10045.4.3.2").toString("hex")).toBe("06082a8648ce3d040302");
  expect(readChildren(readDer(der.sequence(der.boolean(true), der.utf8("a")))).map((v) => v.tag)).toEqual([1, 12]);
});

test("dates before and after 2050 are read by Node as they were written", () => {
  const { privateKey } = generateKeyPairSync("ec", { namedCurve: "prime256v1" });
  const publicKey = createPublicKey(privateKey);
  const plan = { subject: "a", issuer: "a", publicKey, issuerPublicKey: publicKey, issuerKey: privateKey, names: [] };
  const [notBefore, notAfter] = [new Date(Date.UTC(2049, 11, 31, 23, 59, 59)), new Date(Date.UTC(2050, 0, 1))];
  const { pem } = signCertificate({ ...plan, use: "authority", notBefore, notAfter });
  const read = new X509Certificate(pem);
  expect([Date.parse(read.validFrom), Date.parse(read.validTo)]).toEqual([notBefore.getTime(), notAfter.getTime()]);
});

test("a request reads back to the key that made it", () => {
  const { privateKey } = generateKeyPairSync("ec", { namedCurve: "prime256v1" });
  expect(readRequest(makeRequest(privateKey)).equals(createPublicKey(privateKey))).toBe(true);
});
