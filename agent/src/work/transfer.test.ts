// Transfers against a small real HTTP server that breaks on purpose: cut answers, no ranges, wrong bytes, refusals, silence.
// A file counts only when it is whole, and a transfer goes on where it broke.
import { createHash, randomBytes } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { testInput } from "../testing.ts";
import { createArtifacts } from "./artifacts.ts";
import { openCache } from "./cache.ts";
import { StageFailure } from "./contract.ts";
import { AddressRefused, download, upload } from "./transfer.ts";

const bytes = randomBytes(300_000);
const file = {
  name: "clip.mp4",
  sha256: createHash("sha256").update(bytes).digest("hex"),
  sizeBytes: bytes.length,
};
let dir = "";
let server: Server;
let answer: (request: IncomingMessage, response: ServerResponse) => void;
let seen: string[] = [];
const url = () => `http://127.0.0.1:${(server.address() as AddressInfo).port}/artifacts/${file.sha256}?signature=x`;
const quick = { signal: new AbortController().signal, patienceMs: 1_000 };

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), "renderplane-transfer-"));
  seen = [];
  server = createServer((request, response) => {
    seen.push(`${request.method} ${request.headers.range ?? request.headers["upload-offset"] ?? ""}`.trim());
    answer(request, response);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
});
afterEach(() => {
  server.closeAllConnections();
  server.close();
  rmSync(dir, { recursive: true, force: true });
});

const rangeStart = (request: IncomingMessage) => Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? "")?.[1] ?? 0);
/** Announces everything, sends `count` bytes, and cuts when they are on the other side's disk: what is under way may be lost. */
const sendAndCut = (response: ServerResponse, from: number, count: number) => {
  response.writeHead(from > 0 ? 206 : 200, {
    "content-length": bytes.length - from,
    ...(from > 0 ? { "content-range": `bytes ${from}-${bytes.length - 1}/${bytes.length}` } : {}),
  });
  response.write(bytes.subarray(from, from + count));
  const cut = setInterval(() => {
    if ((statSync(join(dir, "draft"), { throwIfNoEntry: false })?.size ?? 0) >= from + count) response.destroy();
  }, 5);
  response.once("close", () => clearInterval(cut));
};
const sendWhole = (response: ServerResponse, from: number, body = bytes) => {
  const headers = from > 0 ? { "content-range": `bytes ${from}-${body.length - 1}/${body.length}` } : {};
  response.writeHead(from > 0 ? 206 : 200, headers).end(body.subarray(from));
};
const failure = async (act: Promise<unknown>): Promise<StageFailure> => {
  const error = await act.then(
    () => new Error("it succeeded"),
    (reason: unknown) => reason,
  );
  if (!(error instanceof StageFailure)) throw error;
  return error;
};

describe("a download", () => {
  test("that is cut goes on from the byte where it broke, and is verified as a whole", async () => {
    let tries = 0;
    answer = (request, response) => {
      tries += 1;
      if (tries <= 2) sendAndCut(response, rangeStart(request), 100_000);
      else sendWhole(response, rangeStart(request));
    };
    const path = join(dir, "draft");
    await download(url(), file, path, quick);
    expect(readFileSync(path).equals(bytes)).toBe(true);
    expect(seen).toEqual(["GET", "GET bytes=100000-", "GET bytes=200000-"]);
  });

  test("from a server without ranges starts over and is right too", async () => {
    let tries = 0;
    answer = (_request, response) => {
      tries += 1;
      if (tries === 1) sendAndCut(response, 0, 50_000);
      else sendWhole(response, 0);
    };
    await download(url(), file, join(dir, "draft"), quick);
    expect(readFileSync(join(dir, "draft")).equals(bytes)).toBe(true);
  });

  test("that always breaks at the same byte fails as transfer_failed and names the file", async () => {
    answer = (_request, response) => sendAndCut(response, 0, 1_000);
    const error = await failure(download(url(), file, join(dir, "draft"), quick));
    expect(error.failureClass).toBe("transfer_failed");
    expect(error.message).toContain("clip.mp4");
  });

  test("of an unreachable artifact fails as transfer_failed, names the file and says what to check", async () => {
    const address = url();
    server.close();
    const error = await failure(download(address, file, join(dir, "draft"), { ...quick, patienceMs: 300 }));
    expect(error.failureClass).toBe("transfer_failed");
    expect(error.message).toMatch(/^Could not download clip\.mp4: .*ECONNREFUSED.*check that this host reaches/);
  });

  test.each([403, 404, 410])("that is refused with %i is not tried again", async (status) => {
    answer = (_request, response) => response.writeHead(status).end("no");
    const error = await failure(download(url(), file, join(dir, "draft"), quick));
    expect(error.failureClass).toBe("transfer_failed");
    expect(error.message).toContain(`clip.mp4 cannot be read: the control plane answered ${status}`);
    expect(seen).toHaveLength(1);
  });

  test("with wrong bytes is fetched once more from the start and then refused; nothing wrong stays", async () => {
    const wrong = Buffer.from(bytes);
    wrong[5] = (wrong[5] ?? 0) ^ 1;
    answer = (request, response) => sendWhole(response, rangeStart(request), wrong);
    const error = await failure(download(url(), file, join(dir, "draft"), quick));
    expect(error.message).toContain("The stored file is damaged");
    expect(seen).toEqual(["GET", "GET"]);
    expect(existsSync(join(dir, "draft"))).toBe(false);
  });

  test("that is longer than announced is refused at once", async () => {
    answer = (_request, response) => sendWhole(response, 0, Buffer.concat([bytes, Buffer.from("more")]));
    const error = await failure(download(url(), file, join(dir, "draft"), quick));
    expect(error.message).toContain("longer than");
    expect(statSync(join(dir, "draft")).size).toBeLessThanOrEqual(bytes.length);
  });

  test("of an empty file works, and a leftover draft of another size is not believed", async () => {
    const empty = { name: "e", sizeBytes: 0, sha256: createHash("sha256").digest("hex") };
    writeFileSync(join(dir, "draft"), "leftover");
    answer = (_request, response) => response.writeHead(200).end();
    await download(url(), empty, join(dir, "draft"), quick);
    expect(statSync(join(dir, "draft")).size).toBe(0);
  });

  test("ends at once when the attempt is stopped", async () => {
    answer = (_request, response) => void response.writeHead(200).write("x");
    const stop = new AbortController();
    const running = download(url(), file, join(dir, "draft"), { signal: stop.signal });
    setTimeout(() => stop.abort(new Error("cancelled")), 50);
    const began = performance.now();
    await expect(running).rejects.toThrow();
    expect(performance.now() - began).toBeLessThan(2_000);
  });
});

describe("an upload", () => {
  /** The store's side of the protocol, with a cut after so many bytes of the first PUT. */
  const store = (options: { cutAfter?: number; spoil?: number } = {}) => {
    let held = Buffer.alloc(0);
    let isWhole = false;
    let spoil = options.spoil ?? 0;
    let cutAfter = options.cutAfter;
    answer = (request, response) => {
      if (request.method === "HEAD") {
        const state = isWhole ? { "upload-complete": "?1" } : { "upload-offset": held.length };
        return void response.writeHead(200, state).end();
      }
      if (Number(request.headers["upload-offset"]) !== held.length)
        return void response.writeHead(409, { "upload-offset": held.length }).end();
      request.on("data", (chunk: Buffer) => {
        held = Buffer.concat([held, chunk]);
        if (cutAfter === undefined || held.length < cutAfter) return;
        held = held.subarray(0, cutAfter);
        cutAfter = undefined;
        request.destroy();
      });
      request.on("end", () => {
        const isRight = held.equals(bytes) && spoil === 0;
        spoil = Math.max(0, spoil - 1);
        if (!isRight) held = Buffer.alloc(0);
        isWhole = isRight;
        response.writeHead(isRight ? 201 : 422).end();
      });
      request.on("error", () => {});
    };
    return { whole: () => isWhole };
  };
  const source = () => {
    writeFileSync(join(dir, "source"), bytes);
    return join(dir, "source");
  };

  test("that is cut goes on from what the store really has", async () => {
    const stored = store({ cutAfter: 120_000 });
    await upload(url(), file, source(), quick);
    expect(stored.whole()).toBe(true);
    expect(seen).toEqual(["HEAD", "PUT 0", "HEAD", "PUT 120000"]);
  });

  test("of what is stored already sends nothing", async () => {
    const stored = store();
    await upload(url(), file, source(), quick);
    await upload(url(), file, source(), quick);
    expect(stored.whole()).toBe(true);
    expect(seen.filter((line) => line.startsWith("PUT"))).toHaveLength(1);
  });

  test("with a wrong digest is sent once more, then it is transfer_failed", async () => {
    const stored = store({ spoil: 1 });
    await upload(url(), file, source(), quick);
    expect(stored.whole()).toBe(true);
    store({ spoil: 9 });
    const error = await failure(upload(url(), file, source(), quick));
    expect(error.failureClass).toBe("transfer_failed");
  });

  test("outlives a store that is away for a while, and fails when it stays away", async () => {
    let isAway = true;
    const stored = store();
    const whenThere = answer;
    answer = (request, response) => (isAway ? response.writeHead(503).end() : whenThere(request, response));
    setTimeout(() => {
      isAway = false;
    }, 300);
    await upload(url(), file, source(), { ...quick, patienceMs: 5_000 });
    expect(stored.whole()).toBe(true);
    isAway = true;
    const error = await failure(upload(url(), file, source(), { ...quick, patienceMs: 300 }));
    expect(error.message).toContain("Could not upload clip.mp4: the control plane answered 503");
  });
});

test("an address that the store refuses is told apart, so that a fresh one can be asked for", async () => {
  answer = (_request, response) => response.writeHead(403).end();
  writeFileSync(join(dir, "source"), bytes);
  const error = await failure(upload(url(), file, join(dir, "source"), quick));
  expect(error).toBeInstanceOf(AddressRefused);
  expect(error.failureClass).toBe("transfer_failed");
});

describe("inputs and outputs of an attempt", () => {
  const work = () => {
    mkdirSync(join(dir, "work"), { recursive: true });
    return join(dir, "work");
  };

  test("come in under names that the agent chose, once for two attempts, and stay whole when the cache is emptied", async () => {
    answer = (request, response) => sendWhole(response, rangeStart(request));
    const cache = openCache(join(dir, "cache"), "boot");
    const artifacts = createArtifacts(cache);
    const input = testInput(url(), bytes, "..-evil.MP4");
    const [first, second] = [join(dir, "a"), join(dir, "b")];
    const [[one], [two]] = await Promise.all([
      artifacts.bring([input], first, quick),
      artifacts.bring([input], second, quick),
    ]);
    expect(seen).toHaveLength(1);
    expect(one?.path).toBe("inputs/000.mp4");
    expect(two).toEqual(one);
    await cache.shrink(0);
    expect(readFileSync(join(first, "inputs/000.mp4")).equals(bytes)).toBe(true);
    expect(statSync(join(first, "inputs/000.mp4")).mode & 0o222).toBe(0);
    expect(await cache.find(file.sha256)).toBeUndefined();
  });

  test("a replay takes what is in place and asks nobody", async () => {
    answer = (request, response) => sendWhole(response, rangeStart(request));
    const artifacts = createArtifacts(openCache(join(dir, "cache"), "boot"));
    await artifacts.bring([testInput(url(), bytes)], work(), quick);
    rmSync(join(dir, "cache"), { recursive: true });
    await artifacts.bring([testInput("http://127.0.0.1:1/gone", bytes)], work(), quick);
    expect(seen).toHaveLength(1);
  });

  test("what one stage made is there for the next one without a transfer", async () => {
    const cache = openCache(join(dir, "cache"), "boot");
    const artifacts = createArtifacts(cache);
    writeFileSync(join(work(), "out.mp4"), bytes);
    const outputs = [{ name: "clip.mp4", path: "out.mp4", mediaType: "video/mp4" }];
    const described = await artifacts.describe(outputs, work(), quick.signal);
    expect(described).toEqual([
      { name: "clip.mp4", sha256: file.sha256, sizeBytes: BigInt(bytes.length), mediaType: "video/mp4" },
    ]);
    await artifacts.store(described, outputs, work(), [{ sha256: file.sha256, url: "" }], quick);
    await artifacts.bring([testInput("http://127.0.0.1:1/unused", bytes)], join(dir, "next"), quick);
    expect(readFileSync(join(dir, "next", "inputs/000.mp4")).equals(bytes)).toBe(true);
  });

  test("a file of the cache that is not whole any more is fetched again", async () => {
    answer = (request, response) => sendWhole(response, rangeStart(request));
    const artifacts = createArtifacts(openCache(join(dir, "cache"), "boot"));
    const input = testInput(url(), bytes);
    await artifacts.bring([input], join(dir, "first"), quick);
    rmSync(join(dir, "first"), { recursive: true });
    truncateSync(join(dir, "cache", file.sha256.slice(0, 2), file.sha256), 1_000);
    await artifacts.bring([input], join(dir, "second"), quick);
    expect(readFileSync(join(dir, "second", "inputs/000.mp4")).equals(bytes)).toBe(true);
    expect(seen).toHaveLength(2);
  });

  test("a cache that takes nothing in costs no attempt its inputs or outputs", async () => {
    answer = (request, response) => sendWhole(response, rangeStart(request));
    const cache = openCache(join(dir, "cache"), "boot");
    const artifacts = createArtifacts(cache);
    // A file where the folder of this digest would be: the cache cannot be written there.
    writeFileSync(join(dir, "cache", file.sha256.slice(0, 2)), "");
    await artifacts.bring([testInput(url(), bytes)], work(), quick);
    expect(readFileSync(join(work(), "inputs/000.mp4")).equals(bytes)).toBe(true);
    const outputs = [{ name: "clip.mp4", path: "inputs/000.mp4", mediaType: "video/mp4" }];
    const described = await artifacts.describe(outputs, work(), quick.signal);
    await artifacts.store(described, outputs, work(), [{ sha256: file.sha256, url: "" }], quick);
  });

  test("files that are evicted while others look at them are simply not there", async () => {
    const cache = openCache(join(dir, "cache"), "boot");
    const digests = Array.from({ length: 200 }, (_, i) => createHash("sha256").update(`${i}`).digest("hex"));
    for (const [i, sha256] of digests.entries()) {
      writeFileSync(join(work(), `${i}`), `${i}`);
      await cache.share(sha256, join(work(), `${i}`));
    }
    const acts: Promise<unknown>[] = [];
    for (let i = 0; i < 20; i++) {
      acts.push(cache.shrink(0), ...digests.slice(i * 10, i * 10 + 10).map((sha256) => cache.find(sha256)));
      await new Promise(setImmediate);
    }
    expect((await Promise.allSettled(acts)).filter((end) => end.status === "rejected")).toEqual([]);
  });

  test("what is left of transfers that were given up counts, and goes when nobody has written to it for a while", async () => {
    const cache = openCache(join(dir, "cache"), "boot");
    const [old, fresh] = ["a", "b"].map((letter) => cache.draftPath(letter.repeat(64))) as [string, string];
    for (const draft of [old, fresh]) writeFileSync(draft, "0123456789");
    const anHourAgo = Date.now() / 1000 - 3_600;
    utimesSync(old, anHourAgo, anHourAgo);
    await cache.shrink(0);
    expect([existsSync(old), existsSync(fresh)]).toEqual([false, true]);
  });

  test("the cache keeps the newest within its bound and starts empty after a reboot", async () => {
    const cache = openCache(join(dir, "cache"), "boot", 250);
    for (const [i, text] of ["a", "b", "c"].entries()) {
      const content = text.repeat(100);
      const sha256 = createHash("sha256").update(content).digest("hex");
      writeFileSync(join(work(), text), content);
      await cache.share(sha256, join(work(), text));
      // Age decides; a clock of the file system may be coarse.
      if (await cache.find(sha256)) utimesSync(join(dir, "cache", sha256.slice(0, 2), sha256), 1000 + i, 1000 + i);
    }
    const held = () =>
      readdirSync(join(dir, "cache"))
        .filter((name) => /^[0-9a-f]{2}$/.test(name))
        .flatMap((name) => readdirSync(join(dir, "cache", name)));
    expect(held()).toHaveLength(2);
    expect(held()).not.toContain(createHash("sha256").update("a".repeat(100)).digest("hex"));
    openCache(join(dir, "cache"), "next-boot");
    expect(held()).toEqual([]);
  });
});
