// The authority's certificates as TLS and X.509 readers see them, and what it refuses to sign.
import { createHash, createPrivateKey, createPublicKey, generateKeyPairSync, sign, X509Certificate } from "node:crypto";
import { makeRequest, spkiOf } from "@renderplane/proto/kernel/certificate.ts";
import { der } from "@renderplane/proto/kernel/der.ts";
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { openAuthority } from "./authority.ts";
import { isSecret, makeJoinToken, parseJoinToken } from "./join-token.ts";

const hostId = "h_01JD0000000000000000000000";
const newKey = () => generateKeyPairSync("ec", { namedCurve: "prime256v1" }).privateKey;
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
    const first = openAuthority(undefined);
    const second = openAuthority(JSON.parse(JSON.stringify(first.toSave)));
    expect(second.authority.pin).toBe(first.authority.pin);
    const root = new X509Certificate(first.authority.authorities);
    expect(root.ca).toBe(true);
    expect(root.verify(root.publicKey)).toBe(true);
    const pin = createHash("sha256").update(spkiOf(root.publicKey)).digest("base64url");
    expect(first.authority.pin).toBe(pin);
    const { certificate } = await second.authority.signHost(makeRequest(newKey()), hostId);
    expect(new X509Certificate(certificate).checkIssued(root)).toBe(true);
  });

  test("a host certificate carries the host's id, client use only, 72 hours, backdated five minutes", async () => {
    const at = Date.UTC(2030, 0, 1, 12);
    const { authority } = openAuthority(undefined, () => at);
    const key = newKey();
    const signed = await authority.signHost(makeRequest(key), hostId);
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
    expect(signed.publicKeySha256).toBe(
      createHash("sha256")
        .update(spkiOf(createPublicKey(key)))
        .digest("hex"),
    );
  });

  test("names and extensions that a request asks for are ignored", async () => {
    const key = newKey();
    const spki = createPublicKey(key).export({ type: "spki", format: "der" });
    const evilName = der.sequence(der.set(der.sequence(der.oid("2.5.4.3"), der.utf8("h_01JDEVIL000000000000000000"))));
    const wantsAuthority = der.sequence(
      der.oid("1.2.840.113549.1.9.14"),
      der.set(
        der.sequence(
          der.sequence(der.oid("2.5.29.19"), der.boolean(true), der.octets(der.sequence(der.boolean(true)))),
        ),
      ),
    );
    const info = der.sequence(der.integer(0n), evilName, spki, der.explicit(0, wantsAuthority));
    const request = der.sequence(
      info,
      der.sequence(der.oid("1.2.840.10045.4.3.2")),
      der.bits(sign("sha256", info, key)),
    );
    const { certificate } = await openAuthority(undefined).authority.signHost(request, hostId);
    const read = new X509Certificate(certificate);
    expect(read.subject).toBe(`CN=${hostId}`);
    expect(read.ca).toBe(false);
  });

  test("refuses a request that is not signed by its own key, another kind of key, and noise", async () => {
    const { authority } = openAuthority(undefined);
    const request = makeRequest(newKey());
    const forged = Buffer.from(request);
    forged[forged.length - 1] = (forged.at(-1) ?? 0) ^ 1;
    expect(await codeOf(authority.signHost(forged, hostId))).toContain("invalid_request: csr: ");
    const rsa = generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey;
    expect(await codeOf(authority.signHost(makeRequest(rsa), hostId))).toBe(
      "invalid_request: csr: the key must be on the curve P-256",
    );
    expect(await codeOf(authority.signHost(Buffer.from("-----BEGIN"), hostId))).toBe(
      "invalid_request: csr: expected a PKCS#10 request in DER",
    );
    expect(await codeOf(authority.signHost(Buffer.alloc(9000), hostId))).toBe(
      "invalid_request: csr: is 9000 bytes, at most 8192 are read",
    );
  });

  test("any bytes for a request are refused by code, never by a crash", async () => {
    const { authority } = openAuthority(undefined);
    const request = makeRequest(newKey());
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
    const { authority } = openAuthority(undefined);
    const { key, certificate } = await authority.serverCredentials(["render.example", "10.1.2.3", "fd00::1:2"]);
    const leaf = new X509Certificate(certificate);
    for (const name of ["localhost", "render.example"]) expect(leaf.checkHost(name)).toBe(name);
    for (const ip of ["127.0.0.1", "::1", "10.1.2.3", "fd00::1:2"]) expect(leaf.checkIP(ip)).toBe(ip);
    expect(leaf.keyUsage).toEqual(["1.3.6.1.5.5.7.3.1"]);
    expect(leaf.checkPrivateKey(createPrivateKey(key))).toBe(true);
    expect(certificate.endsWith(authority.authorities)).toBe(true);
  });

  test("a damaged record is refused with the row to restore", () => {
    const { toSave } = openAuthority(undefined);
    const other = openAuthority(undefined).toSave;
    expect(() => openAuthority({ ...toSave, certificate: other.certificate ?? "" })).toThrow("do not belong together");
    expect(() => openAuthority({})).toThrow("restore the row `authority`");
  });
});

describe("join tokens", () => {
  test("a token reads back, and only its own secret matches the stored digest", () => {
    const { authority } = openAuthority(undefined);
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
