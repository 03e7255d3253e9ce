// Signed addresses: what was signed passes until it expires; a change of any part does not.
import { randomBytes } from "node:crypto";
import { isCode } from "@renderplane/proto/kernel/errors.ts";
import { expect, test } from "vitest";
import { createAddressSigner } from "./address-signer.ts";

const secret = randomBytes(32);
const sha256 = "ab".repeat(32);
const start = Date.parse("2026-01-01T00:00:00Z");
const signerAt = (now: number, key = secret) =>
  createAddressSigner({ baseUrl: () => "http://127.0.0.1:8000/", secret: key, now: () => now });
const signer = signerAt(start);
const queryOf = (url: string) => new URL(url).searchParams;

test("an address is absolute, names the digest, and is accepted by every replica until it expires", () => {
  const url = signer.sign({ method: "GET", sha256, ttlMs: 60_000 });
  expect(url).toMatch(
    new RegExp(
      `^http://127\\.0\\.0\\.1:8000/artifacts/${sha256}\\?expires=${start / 1000 + 60}&signature=[0-9a-f]{64}$`,
    ),
  );
  const put = signer.sign({ method: "PUT", sha256, sizeBytes: 12, ttlMs: 60_000 });
  expect(queryOf(put).get("size")).toBe("12");
  const other = signerAt(start + 59_999);
  other.verify({ method: "GET", sha256, query: queryOf(url) });
  other.verify({ method: "PUT", sha256, query: queryOf(put) });
  expect(() => signerAt(start + 60_000).verify({ method: "GET", sha256, query: queryOf(url) })).toThrow(
    "The address expired at 2026-01-01T00:01:00.000Z.",
  );
});

test("any changed part is signature_invalid", () => {
  const get = () => queryOf(signer.sign({ method: "GET", sha256, ttlMs: 60_000 }));
  const put = () => queryOf(signer.sign({ method: "PUT", sha256, sizeBytes: 12, ttlMs: 60_000 }));
  const changed = (query: URLSearchParams, name: string, value: string | undefined): URLSearchParams => {
    if (value === undefined) query.delete(name);
    else query.set(name, value);
    return query;
  };
  const twice = get();
  twice.append("expires", twice.get("expires") ?? "");
  const signature = get().get("signature") ?? "";
  const cases: [string, Parameters<typeof signer.verify>[0]][] = [
    ["another method", { method: "PUT", sha256, query: changed(get(), "size", "12") }],
    ["a GET with the address of a PUT", { method: "GET", sha256, query: put() }],
    ["another digest", { method: "GET", sha256: "cd".repeat(32), query: get() }],
    ["a later expiry", { method: "GET", sha256, query: changed(get(), "expires", "99999999999") }],
    ["no expiry", { method: "GET", sha256, query: changed(get(), "expires", undefined) }],
    ["an expiry twice", { method: "GET", sha256, query: twice }],
    ["another size", { method: "PUT", sha256, query: changed(put(), "size", "13") }],
    ["no size", { method: "PUT", sha256, query: changed(put(), "size", undefined) }],
    ["no signature", { method: "GET", sha256, query: changed(get(), "signature", undefined) }],
    ["a short signature", { method: "GET", sha256, query: changed(get(), "signature", signature.slice(2)) }],
    ["a signature that is no hex", { method: "GET", sha256, query: changed(get(), "signature", "z".repeat(64)) }],
    ["no query", { method: "GET", sha256, query: new URLSearchParams() }],
  ];
  for (const [name, request] of cases) {
    let failure: unknown;
    try {
      signer.verify(request);
    } catch (error) {
      failure = error;
    }
    expect(isCode(failure, "signature_invalid"), name).toBe(true);
  }
  expect(() => signerAt(start, randomBytes(32)).verify({ method: "GET", sha256, query: get() })).toThrow(
    "The signature does not belong to this address.",
  );
});

test("a secret that is too short and a request that makes no sense are bugs, not addresses", () => {
  expect(() => signerAt(start, Buffer.alloc(8))).toThrow("32 bytes");
  expect(() => signer.sign({ method: "PUT", sha256, ttlMs: 1 })).toThrow("an address to PUT names the size");
  expect(() => signer.sign({ method: "GET", sha256, sizeBytes: 1, ttlMs: 1 })).toThrow("one to GET does not");
});
