// The media stage against a server that speaks the Pexels protocol, well and badly; clips are real files made by FFmpeg.
import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { StageFailure } from "../../work/contract.ts";
import { createMediaStage, type SceneItem } from "../media.ts";
import { createTestContext, type TestContext, type TestContextOptions } from "../testing.ts";
import { downloadVideo, type PexelsLimits, searchVideos } from "./pexels.ts";
import { type Asked, type PlayedServer, playServer, type Reply } from "./testing.ts";

const key = "pexels-key-0123456789";
const folder = mkdtempSync(path.join(tmpdir(), "renderplane-pexels-"));
let clip: Buffer;
beforeAll(() => {
  const args = "-v error -y -f lavfi -i testsrc2=size=64x48:rate=10:duration=1 -c:v libx264 -preset ultrafast clip.mp4";
  execFileSync("ffmpeg", args.split(" "), { cwd: folder });
  clip = readFileSync(path.join(folder, "clip.mp4"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const toClose: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of toClose.splice(0)) await close();
});

const limits: PexelsLimits = { searchMs: 2_000, downloadMs: 2_000, maxFileBytes: 1024 ** 2 };
const serve = async (reply: (asked: Asked) => Reply): Promise<PlayedServer> => {
  const server = await playServer(reply);
  toClose.push(server.close);
  return server;
};
const video = (id: string, links: readonly (readonly [string, number])[]) => ({
  id,
  url: `https://www.pexels.com/video/${id}/`,
  duration: 12,
  user: { name: `Author of ${id}`, url: `https://www.pexels.com/@${id}` },
  video_files: links.map(([link, height]) => ({ link, file_type: "video/mp4", width: (height * 16) / 9, height })),
});
/** Answers a search with `count` videos of the keyword, and every file with the clip. */
const wellBehaved = (count: number) => {
  const self: { url: string } = { url: "" };
  const reply = (asked: Asked): Reply => {
    if (asked.path !== "/videos/search") return { headers: { "content-type": "video/mp4" }, body: clip };
    const keyword = asked.query.get("query");
    const videos = Array.from({ length: count }, (_, n) =>
      video(`${keyword}-${n}`, [
        [`${self.url}/uhd-${keyword}-${n}.mp4`, 2160],
        [`${self.url}/hd-${keyword}-${n}.mp4`, 1080],
        [`${self.url}/sd-${keyword}-${n}.mp4`, 540],
      ]),
    );
    return { body: { page: 1, per_page: 5, videos } };
  };
  return { self, reply };
};
const contextFor = (options: TestContextOptions = {}, scriptCharacters = 1): TestContext => {
  const made = createTestContext({ stage: "media_collection", ...options });
  toClose.push(made.remove);
  made.addInput("script_generation", "script.txt", { bytes: "a".repeat(scriptCharacters) });
  return made;
};
const stageFor = (baseUrl: string) =>
  createMediaStage({ ttsProvider: "espeak", pexels: { apiKey: key, baseUrl } }, limits);
const failureOf = async (run: Promise<unknown>): Promise<StageFailure> => {
  const error = await run.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(StageFailure);
  return error as StageFailure;
};

describe("stock video", () => {
  test("[S158] searches nature and technology, 5 each, and keeps url, duration, author and licence", async () => {
    const { self, reply } = wellBehaved(7);
    const server = await serve(reply);
    self.url = server.url;
    // 20 minutes of speech: as many scenes as there may be.
    const made = contextFor({ request: {} }, 18_000);
    const end = await stageFor(server.url).run(made.context);
    const searches = server.asked.filter((asked) => asked.path === "/videos/search");
    expect(searches.map((asked) => [asked.method, asked.query.toString(), asked.headers.authorization])).toEqual([
      ["GET", "query=nature&per_page=5", key],
      ["GET", "query=technology&per_page=5", key],
    ]);
    const items = end.result.items as SceneItem[];
    expect(items).toHaveLength(10);
    expect(items.slice(0, 3).map((item) => item.url)).toEqual([
      `${server.url}/hd-nature-0.mp4`,
      `${server.url}/hd-technology-0.mp4`,
      `${server.url}/hd-nature-1.mp4`,
    ]);
    expect(items[0]).toMatchObject({
      name: "scene-000.mp4",
      source: "pexels",
      media: "video",
      width: 64,
      attribution: {
        author: "Author of nature-0",
        author_url: "https://www.pexels.com/@nature-0",
        page_url: "https://www.pexels.com/video/nature-0/",
        licence: "Pexels License",
      },
    });
    expect(items[0]?.duration).toBeCloseTo(1, 1);
    expect(made.uses).toEqual([{ service: "media_api", provider: "pexels", unit: "request", quantity: 2 }]);
    // The key goes to the search only, never to where the files lie.
    const downloads = server.asked.filter((asked) => asked.path !== "/videos/search");
    expect(downloads).toHaveLength(10);
    expect(downloads.every((asked) => asked.headers.authorization === undefined)).toBe(true);
  });

  test("at most two keywords are searched, any text is only a query, and a restart asks nothing again", async () => {
    const { self, reply } = wellBehaved(2);
    const server = await serve(reply);
    self.url = server.url;
    const made = contextFor({ request: { keywords: ["a&b=c 100% 'x' ü", "two", "three"] } });
    await stageFor(server.url).run(made.context);
    const searches = server.asked.filter((asked) => asked.path === "/videos/search");
    expect(searches.map((asked) => asked.query.get("query"))).toEqual(["a&b=c 100% 'x' ü", "two"]);
    const before = server.asked.length;
    await stageFor(server.url).run(made.again().context);
    expect(server.asked).toHaveLength(before);
  });

  test("clips that are gone, too large, no video or at forbidden addresses are passed over", async () => {
    const links = ["/gone.mp4", "/big.mp4", "/list.mp4", "/away.mp4", "/good.mp4"];
    const server = await serve((asked) => {
      if (asked.path === "/videos/search") {
        if (asked.query.get("query") !== "one") {
          const outside = [
            "http://example.com/a.mp4",
            "file:///etc/passwd",
            "https://127.0.0.1/a.mp4",
            "https://localhost/a.mp4",
            "nonsense",
          ];
          return { body: { videos: outside.map((link, n) => video(`out-${n}`, [[link, 1080]])) } };
        }
        return { body: { videos: links.map((link) => video(link.slice(1), [[`${server.url}${link}`, 1080]])) } };
      }
      if (asked.path === "/gone.mp4") return { status: 404 };
      if (asked.path === "/big.mp4") return "endless";
      if (asked.path === "/list.mp4") return { body: "#EXTM3U\n/etc/passwd\n" };
      if (asked.path === "/away.mp4") return { status: 302, headers: { location: "http://169.254.169.254/latest" } };
      return { body: clip };
    });
    const made = contextFor({ request: { keywords: ["one", "two"] } });
    const end = await stageFor(server.url).run(made.context);
    expect((end.result.items as SceneItem[]).map((item) => item.url)).toEqual([`${server.url}/good.mp4`]);
    expect(readdirSync(made.dir).filter((name) => name.endsWith(".part"))).toEqual([]);
    expect(server.sentBytes()).toBeLessThan(32 * 1024 ** 2);
  });

  test("nothing found leads to drawn backgrounds, and the searches are billed", async () => {
    const server = await serve(() => ({ body: { videos: [] } }));
    const made = contextFor();
    const end = await stageFor(server.url).run(made.context);
    expect((end.result.items as SceneItem[])[0]?.source).toBe("generated");
    expect(made.uses[0]?.quantity).toBe(2);
  });

  const bad: readonly (readonly [string, Reply, string, string])[] = [
    [
      "429 with Retry-After",
      { status: 429, headers: { "retry-after": "3600" } },
      "provider_quota",
      "Retry-After: 3600",
    ],
    ["401", { status: 401, body: { error: `bad ${key}` } }, "provider_auth", "Check PEXELS_API_KEY"],
    ["500", { status: 500 }, "provider_unavailable", "HTTP 500"],
    ["bad JSON", { body: '{"videos": [' }, "provider_bad_answer", "did not answer in JSON"],
    ["another shape", { body: { photos: [] } }, "provider_bad_answer", "without a list of videos"],
    ["an endless body", "endless", "provider_bad_answer", "larger than 2097152 bytes"],
    [
      "a redirect",
      { status: 301, headers: { location: "http://127.0.0.1:1/" } },
      "provider_bad_answer",
      "redirects are not followed",
    ],
    ["no answer in time", "hang", "provider_unavailable", "did not answer"],
  ];
  for (const [name, reply, failureClass, text] of bad)
    test(`a search answered by ${name} is ${failureClass} and never shows the key`, async () => {
      const server = await serve(() => reply);
      const settings = { apiKey: key, baseUrl: server.url };
      const signal = new AbortController().signal;
      const shortly = { ...limits, searchMs: reply === "hang" ? 300 : 5_000 };
      const failure = await failureOf(searchVideos(settings, "bees", signal, shortly));
      expect(failure.failureClass).toBe(failureClass);
      expect(failure.message).toContain(text);
      expect(`${failure.message}${failure.evidence}`).not.toContain(key);
      expect(server.asked).toHaveLength(1);
    });

  test("a truncated or stalled download is never taken for a file", async () => {
    const signal = new AbortController().signal;
    for (const reply of ["cut", "hang"] as const) {
      const server = await serve(() => reply);
      const target = path.join(folder, `download-${reply}`);
      const settings = { apiKey: key, baseUrl: server.url };
      const shortly = { ...limits, downloadMs: 500 };
      const failure = await failureOf(downloadVideo(settings, `${server.url}/a.mp4`, target, signal, shortly));
      expect(failure.failureClass).toBe("provider_unavailable");
      expect(existsSync(target) || existsSync(`${target}.part`)).toBe(false);
    }
  });

  test("redirects within the rules are followed to the end", async () => {
    const server = await serve((asked) =>
      asked.path === "/b.mp4" ? { body: clip } : { status: 302, headers: { location: "/b.mp4" } },
    );
    const target = path.join(folder, "followed");
    const settings = { apiKey: key, baseUrl: server.url };
    const got = await downloadVideo(settings, `${server.url}/a.mp4`, target, new AbortController().signal, limits);
    expect(got).toEqual({ ok: true, bytes: clip.length });
    expect(readFileSync(target).equals(clip)).toBe(true);
  });
});
