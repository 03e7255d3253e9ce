// What an agent sends to be signed, and what making it leaves behind in the agent: nothing of the library.
import "reflect-metadata";
import { execFile } from "node:child_process";
import { createPublicKey, generateKeyPairSync } from "node:crypto";
import { promisify } from "node:util";
import { Pkcs10CertificateRequest } from "@peculiar/x509";
import { expect, test } from "vitest";
import { newKey } from "./identity.ts";
import { makeRequest } from "./signing-request.ts";

test("the request carries the public key, is signed by its private half, and asks for no name", async () => {
  const key = newKey();
  const request = new Pkcs10CertificateRequest(await makeRequest(key));
  expect(await request.verify()).toBe(true);
  const carried = createPublicKey({ key: Buffer.from(request.publicKey.rawData), format: "der", type: "spki" });
  expect(carried.equals(createPublicKey(key))).toBe(true);
  expect(request.subject).toBe("");
  expect(request.attributes).toEqual([]);
});

test("a process that made a request has not loaded the library", async () => {
  const program = `
    import { createRequire } from "node:module";
    import { newKey } from "./identity.ts";
    import { makeRequest } from "./signing-request.ts";
    const request = await makeRequest(newKey());
    const loaded = Object.keys(createRequire(import.meta.url).cache).filter((path) => /peculiar|reflect-metadata/.test(path));
    console.log(JSON.stringify({ bytes: request.length > 0, loaded }));
  `;
  const { stdout } = await promisify(execFile)(process.execPath, ["--input-type=module-typescript", "-e", program], {
    cwd: import.meta.dirname,
  });
  expect(JSON.parse(stdout)).toEqual({ bytes: true, loaded: [] });
});

test("a program that fails is an error that may pass, told in the program's own words", async () => {
  const { privateKey: rsa } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  const error = await makeRequest(rsa).catch((failed: unknown) => failed);
  expect(error).toMatchObject({
    code: "internal",
    message:
      "the signing request for this host's certificate could not be made: DOMException [DataError]: Invalid key type",
  });
});
