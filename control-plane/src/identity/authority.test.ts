// The authority's certificates as TLS and X.509 readers see them, and what it refuses to sign.
import {
  createHash,
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  type KeyObject,
  X509Certificate,
} from "node:crypto";
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { openAuthority } from "./authority.ts";
import { isSecret, makeJoinToken, parseJoinToken } from "./join-token.ts";
import { makeRequest } from "./testing.ts";

const hostId = "h_01JD0000000000000000000000";
const newKey = () => generateKeyPairSync("ec", { namedCurve: "prime256v1" }).privateKey;
const sha256Of = (publicKey: KeyObject) =>
  createHash("sha256").update(publicKey.export({ type: "spki", format: "der" }));
const codeOf = async (act: Promise<unknown>): Promise<string> => {
  try {
    await act;
    return "no error";
  } catch (error) {
    return error instanceof RenderplaneError ? `${error.code}: ${error.message}` : String(error);
  }
};

describe("the authority", () => {
  test("two replicas that open one record share the pin and trust each other's certificates", async () => {
    const first = await openAuthority(undefined);
    const second = await openAuthority(JSON.parse(JSON.stringify(first.toSave)));
    expect(second.authority.pin).toBe(first.authority.pin);
    const root = new X509Certificate(first.authority.authorities);
    expect(root.ca).toBe(true);
    expect(root.verify(root.publicKey)).toBe(true);
    expect(first.authority.pin).toBe(sha256Of(root.publicKey).digest("base64url"));
    const { certificate } = await second.authority.signHost(await makeRequest(newKey()), hostId);
    expect(new X509Certificate(certificate).checkIssued(root)).toBe(true);
  });

  test("a host certificate carries the host's id, client use only, 72 hours, backdated five minutes", async () => {
    const at = Date.UTC(2030, 0, 1, 12);
    const { authority } = await openAuthority(undefined, () => at);
    const key = newKey();
    const signed = await authority.signHost(await makeRequest(key), hostId);
    const read = new X509Certificate(signed.certificate);
    expect(read.subject).toBe(`CN=${hostId}`);
    expect(read.subjectAltName).toBe(`URI:renderplane://host/${hostId}`);
    expect(read.ca).toBe(false);
    expect(read.keyUsage).toEqual(["1.3.6.1.5.5.7.3.2"]);
    expect(read.serialNumber.toLowerCase()).toBe(signed.serial);
    expect(read.checkPrivateKey(key)).toBe(true);
    expect(read.verify(new X509Certificate(authority.authorities).publicKey)).toBe(true);
    expect(new Date(read.validFrom).getTime()).toBe(at - 300_000);
    expect(new Date(read.validTo).getTime()).toBe(at + 72 * 3_600_000);
    expect(signed.expiresAt.getTime()).toBe(at + 72 * 3_600_000);
    expect(signed.publicKeySha256).toBe(sha256Of(createPublicKey(key)).digest("hex"));
    expect(signed.serial).toMatch(/^[4-7][0-9a-f]{31}$/);
  });

  test("names and extensions that a request asks for are ignored", async () => {
    const request = await makeRequest(newKey(), { asks: "h_01JDEVIL000000000000000000" });
    expect(request.toString("latin1")).toContain("h_01JDEVIL000000000000000000");
    const { authority } = await openAuthority(undefined);
    const { certificate } = await authority.signHost(request, hostId);
    const read = new X509Certificate(certificate);
    expect(read.subject).toBe(`CN=${hostId}`);
    expect(read.subjectAltName).toBe(`URI:renderplane://host/${hostId}`);
    expect(read.ca).toBe(false);
  });

  test("refuses a request that is not signed by its own key, another kind of key, and noise", async () => {
    const { authority } = await openAuthority(undefined);
    const request = await makeRequest(newKey());
    const forged = Buffer.from(request);
    forged[forged.length - 1] = (forged.at(-1) ?? 0) ^ 1;
    expect(await codeOf(authority.signHost(forged, hostId))).toBe(
      "invalid_request: csr: the signature does not match the key that it carries",
    );
    const { privateKey: rsa } = generateKeyPairSync("rsa", { modulusLength: 2048 });
    const { privateKey: p384 } = generateKeyPairSync("ec", { namedCurve: "secp384r1" });
    for (const other of [rsa, p384])
      expect(await codeOf(authority.signHost(await makeRequest(other), hostId))).toBe(
        "invalid_request: csr: the key must be on the curve P-256",
      );
    expect(await codeOf(authority.signHost(await makeRequest(newKey(), { hash: "SHA-384" }), hostId))).toBe(
      "invalid_request: csr: the request must be signed with SHA-256",
    );
    const pem = `-----BEGIN CERTIFICATE REQUEST-----\n${request.toString("base64")}\n-----END CERTIFICATE REQUEST-----\n`;
    for (const text of ["", "-----BEGIN", pem, request.toString("hex")])
      expect(await codeOf(authority.signHost(Buffer.from(text), hostId))).toBe(
        "invalid_request: csr: expected a PKCS#10 request in DER",
      );
    expect(await codeOf(authority.signHost(Buffer.alloc(9000), hostId))).toBe(
      "invalid_request: csr: is 9000 bytes, at most 8192 are read",
    );
  });

  test("any bytes for a request are refused by code, never by a crash", async () => {
    const { authority } = await openAuthority(undefined);
    const request = await makeRequest(newKey());
    const original = await authority.signHost(request, hostId);
    await fc.assert(
      fc.asyncProperty(fc.nat(request.length - 1), fc.integer({ min: 1, max: 255 }), async (at, flip) => {
        const damaged = Buffer.from(request);
        damaged[at] = (damaged[at] ?? 0) ^ flip;
        // A flip in the padding of the outer algorithm field, which is not read, may leave a valid request.
        const answer = await codeOf(authority.signHost(damaged, hostId));
        if (answer !== "no error") expect(answer).toMatch(/^invalid_request: csr:/);
        else expect((await authority.signHost(damaged, hostId)).publicKeySha256).toBe(original.publicKeySha256);
      }),
      { numRuns: 300 },
    );
  });

  test("a server certificate names the loopback and what was configured, for server use only", async () => {
    const { authority } = await openAuthority(undefined);
    const { key, certificate } = await authority.serverCredentials([
      "render.example",
      "10.1.2.3",
      "fd00::1:2",
      "::ffff:10.9.8.7",
    ]);
    const leaf = new X509Certificate(certificate);
    for (const name of ["localhost", "render.example"]) expect(leaf.checkHost(name)).toBe(name);
    for (const ip of ["127.0.0.1", "::1", "10.1.2.3", "fd00::1:2", "::ffff:10.9.8.7"])
      expect(leaf.checkIP(ip)).toBe(ip);
    expect(leaf.keyUsage).toEqual(["1.3.6.1.5.5.7.3.1"]);
    expect(leaf.checkPrivateKey(createPrivateKey(key))).toBe(true);
    expect(certificate.endsWith(authority.authorities)).toBe(true);
  });

  test("a damaged record is refused with the row to restore", async () => {
    const { toSave } = await openAuthority(undefined);
    const other = (await openAuthority(undefined)).toSave;
    const mixed = openAuthority({ ...toSave, certificate: other.certificate ?? "" });
    await expect(mixed).rejects.toThrow("do not belong together");
    await expect(openAuthority({})).rejects.toThrow("restore the row `authority`");
  });
});

describe("join tokens", () => {
  test("a token reads back, and only its own secret matches the stored digest", async () => {
    const { authority } = await openAuthority(undefined);
    const made = makeJoinToken(authority.pin);
    const read = parseJoinToken(`  ${made.token}\n`);
    expect(read.id).toBe(made.id);
    expect(read.pin).toBe(authority.pin);
    expect(isSecret(read.secret, made.secretSha256)).toBe(true);
    expect(isSecret(parseJoinToken(makeJoinToken(authority.pin).token).secret, made.secretSha256)).toBe(false);
    expect(isSecret(read.secret, "")).toBe(false);
    expect(made.token).not.toContain(made.secretSha256);
  });

  test("a text that is no token is refused without repeating it", () => {
    for (const text of ["", "rpj1.a.b.c", "rpj2.aaaaaaaaaaaaaaaa.b.c"]) {
      expect(() => parseJoinToken(text)).toThrow("not of the form rpj1.<id>.<secret>.<pin>");
    }
    expect(() => parseJoinToken("hunter2")).not.toThrow("hunter2");
  });
});
