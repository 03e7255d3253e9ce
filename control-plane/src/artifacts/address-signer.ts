// Signed addresses of artifacts: whoever has one may read or put exactly that content until it expires, without an account.
// HMAC-SHA256 with the installation's secret over method, digest, size and expiry, so every replica accepts every other's.
// Invariant: no part that decides what is allowed lies outside the signature.
import { createHmac, timingSafeEqual } from "node:crypto";
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";

export type AddressSigner = {
  /** An absolute URL. sizeBytes belongs to PUT, and only to PUT. */
  sign(request: {
    readonly method: "GET" | "PUT";
    readonly sha256: string;
    readonly sizeBytes?: number;
    readonly ttlMs: number;
  }): string;
  /** Throws signature_invalid. */
  verify(request: { readonly method: "GET" | "PUT"; readonly sha256: string; readonly query: URLSearchParams }): void;
};

export const createAddressSigner = (options: {
  /** Where agents reach this control plane, such as http://127.0.0.1:8000; read at each signature, the port may be chosen late. */
  readonly baseUrl: () => string;
  readonly secret: Uint8Array;
  /** Unix milliseconds. */
  readonly now?: () => number;
}): AddressSigner => {
  const now = options.now ?? Date.now;
  if (options.secret.byteLength < 32) throw new RangeError("the signing secret must have 32 bytes or more");
  const signatureOf = (method: string, sha256: string, size: string, expires: string): Buffer =>
    createHmac("sha256", options.secret).update(`artifact\n${method}\n${sha256}\n${size}\n${expires}`).digest();

  return {
    sign: ({ method, sha256, sizeBytes, ttlMs }) => {
      if ((method === "PUT") !== (sizeBytes !== undefined))
        throw new RangeError("an address to PUT names the size, one to GET does not");
      const size = sizeBytes === undefined ? "" : String(sizeBytes);
      // Rounded up: an address lives at least as long as was asked for.
      const expires = String(Math.ceil((now() + ttlMs) / 1000));
      const query = new URLSearchParams(size === "" ? { expires } : { size, expires });
      query.set("signature", signatureOf(method, sha256, size, expires).toString("hex"));
      return `${options.baseUrl().replace(/\/+$/, "")}/artifacts/${sha256}?${query}`;
    },
    verify: ({ method, sha256, query }) => {
      const [size, expires, signature] = ["size", "expires", "signature"].map((name) => query.getAll(name)) as [
        string[],
        string[],
        string[],
      ];
      if (size.length !== (method === "PUT" ? 1 : 0) || expires.length !== 1 || signature.length !== 1)
        throw new RenderplaneError(
          "signature_invalid",
          `The address must have ${method === "PUT" ? "size, " : ""}expires and signature, each once.`,
        );
      const expected = signatureOf(method, sha256, size[0] ?? "", expires[0] ?? "");
      const given = Buffer.from(/^[0-9a-f]{64}$/.test(signature[0] ?? "") ? (signature[0] ?? "") : "", "hex");
      if (given.length !== expected.length || !timingSafeEqual(given, expected))
        throw new RenderplaneError("signature_invalid", "The signature does not belong to this address.", {
          next: "Use the address exactly as it was given.",
        });
      if (Number(expires[0]) * 1000 <= now())
        throw new RenderplaneError(
          "signature_invalid",
          `The address expired at ${new Date(Number(expires[0]) * 1000).toISOString()}.`,
          {
            next: "Ask for a new one.",
          },
        );
    },
  };
};
