// What `release` takes out of the host's cache and what it leaves: files that a live attempt has a name of, and everything that
// is no digest. The rest of the cache is proven beside the transfers (transfer.test.ts).
import { createHash } from "node:crypto";
import { existsSync, linkSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { openCache } from "./cache.ts";

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "renderplane-cache-"));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

/** A file that only the cache has a name of, as after the end of the attempt that made it. */
const hold = async (cache: ReturnType<typeof openCache>, text: string): Promise<string> => {
  const sha256 = createHash("sha256").update(text).digest("hex");
  writeFileSync(join(dir, "made"), text);
  await cache.share(sha256, join(dir, "made"));
  rmSync(join(dir, "made"));
  return sha256;
};

test("release frees what is named, once, and says how many bytes", async () => {
  const cache = openCache(join(dir, "cache"), "boot");
  const [gone, other] = [await hold(cache, "12345"), await hold(cache, "other")];
  expect(await cache.release([gone, gone, "0".repeat(64)])).toBe(5);
  expect(await cache.find(gone)).toBeUndefined();
  expect(await cache.find(other)).toBeDefined();
  expect(await cache.release([gone])).toBe(0);
});

test("release leaves a file that a live attempt holds, until the attempt is over", async () => {
  const cache = openCache(join(dir, "cache"), "boot");
  const used = await hold(cache, "in use");
  const input = join(dir, "input");
  linkSync((await cache.find(used)) ?? "", input);
  expect(await cache.release([used])).toBe(0);
  expect(await cache.find(used)).toBeDefined();
  rmSync(input);
  expect(await cache.release([used])).toBe(6);
});

test("release takes digests and no paths", async () => {
  const cache = openCache(join(dir, "cache"), "boot");
  const file = join(dir, "precious");
  writeFileSync(file, "x");
  expect(await cache.release(["../../precious", file, ""])).toBe(0);
  expect(existsSync(file)).toBe(true);
});
