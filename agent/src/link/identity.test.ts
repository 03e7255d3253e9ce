// The identity on disk: whole or not at all, for the owner only, and a clear sentence when it is damaged.
import "reflect-metadata";
import { createPublicKey } from "node:crypto";
import { mkdtemp, readdir, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { X509CertificateGenerator } from "@peculiar/x509";
import { afterEach, beforeEach, expect, test } from "vitest";
import { enrolmentKey, identityPath, newKey, pemOf, readIdentity, saveIdentity } from "./identity.ts";

let dir = "";
beforeEach(async () => {
  dir = join(await mkdtemp(join(tmpdir(), "renderplane-identity-")), "agent");
});
afterEach(() => rm(join(dir, ".."), { recursive: true, force: true }));

const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;

const makeIdentity = async () => {
  const key = newKey();
  const certificate = await X509CertificateGenerator.createSelfSigned({
    signingAlgorithm: algorithm,
    keys: {
      privateKey: key.toCryptoKey(algorithm, false, ["sign"]),
      publicKey: createPublicKey(key).toCryptoKey(algorithm, true, ["verify"]),
    },
  });
  const pem = certificate.toString("pem");
  return {
    version: 1 as const,
    hostId: "h",
    key: pemOf(key),
    certificate: pem,
    authorities: pem,
    sessionAddress: "a:1",
  };
};

test("is read as it was saved, belongs to the owner only, and ends the enrolment", async () => {
  expect(await readIdentity(dir)).toBeUndefined();
  const key = await enrolmentKey(dir);
  expect(pemOf(await enrolmentKey(dir))).toBe(pemOf(key));
  const identity = await makeIdentity();
  await saveIdentity(dir, identity);
  expect(await readIdentity(dir)).toEqual(identity);
  expect(await readdir(dir)).toEqual(["identity.json"]);
  expect((await stat(identityPath(dir))).mode & 0o777).toBe(0o600);
  expect((await stat(dir)).mode & 0o777).toBe(0o700);
});

test("a rest of an interrupted save is replaced", async () => {
  await saveIdentity(dir, await makeIdentity());
  await writeFile(`${identityPath(dir)}.new`, "{ half", { mode: 0o644 });
  const identity = await makeIdentity();
  await saveIdentity(dir, identity);
  expect(await readIdentity(dir)).toEqual(identity);
  expect((await stat(identityPath(dir))).mode & 0o777).toBe(0o600);
});

test.each([
  ["half a file", () => "{"],
  ["a key of another certificate", (whole: object) => JSON.stringify({ ...whole, key: pemOf(newKey()) })],
  ["an unknown field", (whole: object) => JSON.stringify({ ...whole, extra: 1 })],
])("%s is refused with the file and what to do", async (_, damage) => {
  const identity = await makeIdentity();
  await saveIdentity(dir, identity);
  await writeFile(identityPath(dir), damage(identity));
  await expect(readIdentity(dir)).rejects.toThrow(
    `${identityPath(dir)} cannot be used; move it away and enrol again with RENDERPLANE_JOIN_TOKEN`,
  );
});
