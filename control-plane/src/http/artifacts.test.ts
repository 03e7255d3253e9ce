// The signed addresses as agents use them: read with ranges, put in one piece, resumed, refused.
import { createHash } from "node:crypto";
import { connect } from "node:net";
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { afterAll, beforeAll, expect, test } from "vitest";
import { eventually, openTestEdge, type TestEdge } from "../testing/http-edge.ts";
import { problemResponse, problemSchema } from "./problem.ts";

let it: TestEdge;
beforeAll(async () => {
  it = await openTestEdge();
});
afterAll(() => it.close());

const digest = (bytes: Buffer) => createHash("sha256").update(bytes).digest("hex");
const addressOf = (bytes: Buffer) =>
  it.ctx.signer.sign({ method: "PUT", sha256: digest(bytes), sizeBytes: bytes.length, ttlMs: 60_000 });
const readAddress = (bytes: Buffer) => it.ctx.signer.sign({ method: "GET", sha256: digest(bytes), ttlMs: 60_000 });
const put = (url: string, bytes: Buffer, offset = 0) =>
  fetch(url, { method: "PUT", headers: { "upload-offset": String(offset) }, body: new Uint8Array(bytes) });
const codeOf = async (answer: Response) => problemSchema.parse(await answer.json()).code;

test("what was put is read back, whole and in ranges, and a second put is a no-op", async () => {
  const bytes = Buffer.from("first content ".repeat(1000));
  const stored = await put(addressOf(bytes), bytes);
  expect([stored.status, stored.headers.get("upload-complete"), stored.headers.get("upload-offset")]).toEqual([
    201,
    "?1",
    "14000",
  ]);
  expect(Buffer.from(await (await fetch(readAddress(bytes))).arrayBuffer()).equals(bytes)).toBe(true);
  const part = await fetch(readAddress(bytes), { headers: { range: "bytes=6-12" } });
  expect([part.status, await part.text()]).toEqual([206, "content"]);
  const state = await fetch(addressOf(bytes), { method: "HEAD" });
  expect([state.status, state.headers.get("upload-complete")]).toEqual([200, "?1"]);
  expect((await put(addressOf(bytes), bytes)).status).toBe(201);
});

test("an upload that breaks off goes on where it stopped and is invisible until it is whole", async () => {
  const bytes = Buffer.alloc(200_000, "resume me ");
  const url = new URL(addressOf(bytes));
  const socket = connect(Number(url.port), "127.0.0.1");
  socket.write(
    `PUT ${url.pathname}${url.search} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: ${bytes.length}\r\n\r\n`,
  );
  socket.write(bytes.subarray(0, 50_000));
  const stateOf = async () => (await fetch(url, { method: "HEAD" })).headers;
  await eventually(async () => (await stateOf()).get("upload-offset") === "50000");
  socket.destroy();
  expect((await stateOf()).get("upload-complete")).toBe("?0");
  expect(await codeOf(await fetch(readAddress(bytes)))).toBe("artifact_not_found");

  const wrong = await put(url.href, bytes.subarray(10), 10);
  expect(wrong.status).toBe(409);
  expect(problemSchema.parse(await wrong.json())).toMatchObject({
    code: "upload_conflict",
    errors: [{ detail: "50000" }],
  });
  const rest = await put(url.href, bytes.subarray(50_000), 50_000);
  expect(rest.status).toBe(201);
  expect(Buffer.from(await (await fetch(readAddress(bytes))).arrayBuffer()).equals(bytes)).toBe(true);
});

test("a body that ends early is kept but not accepted", async () => {
  const bytes = Buffer.from("only half of this arrives");
  const half = await put(addressOf(bytes), bytes.subarray(0, 10));
  expect([half.status, half.headers.get("upload-complete"), half.headers.get("upload-offset")]).toEqual([
    202,
    "?0",
    "10",
  ]);
  expect((await fetch(readAddress(bytes))).status).toBe(404);
});

test("wrong bytes are refused and removed, and more than announced too", async () => {
  const bytes = Buffer.from("the announced content");
  const other = Buffer.from("some different bytes!");
  const mismatch = await put(addressOf(bytes), other);
  expect([mismatch.status, await codeOf(mismatch)]).toEqual([422, "digest_mismatch"]);
  expect((await fetch(addressOf(bytes), { method: "HEAD" })).headers.get("upload-offset")).toBe("0");
  const long = await put(addressOf(bytes), Buffer.concat([bytes, bytes]));
  expect(await codeOf(long)).toBe("digest_mismatch");
});

test("no byte moves without a valid signature", async () => {
  const bytes = Buffer.from("signed");
  const good = addressOf(bytes);
  const tampered = good.replace("size=6", "size=7");
  const otherMethod = readAddress(bytes);
  const expired = it.ctx.signer.sign({ method: "PUT", sha256: digest(bytes), sizeBytes: 6, ttlMs: -2_000 });
  const unsigned = `${it.url}/artifacts/${digest(bytes)}`;
  for (const url of [tampered, otherMethod, expired, unsigned]) {
    const answer = await put(url, bytes);
    expect([answer.status, await codeOf(answer)]).toEqual([403, "signature_invalid"]);
  }
  expect((await fetch(unsigned)).status).toBe(403);
  expect((await fetch(good, { method: "GET" })).status).toBe(403);
  expect((await fetch(tampered, { method: "HEAD" })).status).toBe(403);
  const noDigest = await fetch(`${it.url}/artifacts/..%2f..%2fetc%2fpasswd`);
  expect(noDigest.status).toBe(404);
  const badOffset = await fetch(good, { method: "PUT", headers: { "upload-offset": "-1" }, body: "x" });
  expect(await codeOf(badOffset)).toBe("invalid_request");
});

test("a reader that goes away leaves no open file", async () => {
  const bytes = Buffer.alloc(8 * 1024 * 1024, 7);
  await put(addressOf(bytes), bytes);
  const openFiles = async () => {
    const { readdir, readlink } = await import("node:fs/promises");
    const names = await readdir("/proc/self/fd");
    const targets = await Promise.all(names.map((n) => readlink(`/proc/self/fd/${n}`).catch(() => "")));
    return targets.filter((t) => t.endsWith(digest(bytes))).length;
  };
  const abort = new AbortController();
  const answer = await fetch(readAddress(bytes), { signal: abort.signal });
  const reader = answer.body?.getReader();
  await reader?.read();
  expect(await openFiles()).toBe(1);
  abort.abort();
  await eventually(async () => (await openFiles()) === 0);
});

test("an answer says when to come back whenever it is known, whatever its status", () => {
  const where = { path: "/artifacts/x", traceId: "" };
  const full = new RenderplaneError("storage_full", "full", { retryAfterMs: 30_000 });
  expect(problemResponse(full, where).headers.get("retry-after")).toBe("30");
  const gone = new RenderplaneError("artifact_not_found", "gone");
  expect(problemResponse(gone, where).headers.get("retry-after")).toBeNull();
});
