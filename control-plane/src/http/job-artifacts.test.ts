// The files of a job over real sockets: list, ranges, conditional requests, and names that must not lead anywhere else.
import { createHash } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openTestEdge, type TestEdge } from "../testing/http-edge.ts";
import { problemSchema } from "./problem.ts";
import { disposition, parseRange } from "./ranges.ts";

let it: TestEdge;
beforeAll(async () => {
  it = await openTestEdge();
});
afterAll(() => it.close());

const put = async (text: string) => {
  const bytes = async function* () {
    yield Buffer.from(text);
  };
  return it.ctx.artifacts.ingest(bytes(), 1_000_000);
};

describe("files of a job", () => {
  const text = "0123456789".repeat(10);
  let id: string;
  let base: string;
  beforeAll(async () => {
    id = await it.submit({ pipeline: "pair" });
    base = `/api/v1/jobs/${id}/artifacts`;
    const host = await it.engine.host("sender");
    const offer = (await it.engine.offers(host)).find((o) => o.jobId === id);
    if (!offer) throw new Error("nothing was offered");
    await it.engine.accept(host, offer);
    const film = await put(text);
    const page = await put("<script>alert(1)</script>");
    await it.engine.finish(host.hostId, offer, {
      outputs: [
        { name: "video.mp4", ...film, mediaType: "video/mp4" },
        { name: "page.html", ...page, mediaType: "text/html" },
      ],
    });
  });

  test("are listed with digest, size and address", async () => {
    const { items } = (await (await it.get(base)).json()) as { items: unknown[] };
    expect(items).toContainEqual({
      stage: "first",
      name: "video.mp4",
      original_name: "video.mp4",
      sha256: createHash("sha256").update(text).digest("hex"),
      size_bytes: 100,
      media_type: "video/mp4",
      url: `${base}/first/video.mp4`,
    });
  });

  test.each([
    ["bytes=0-9", 206, "bytes 0-9/100", "0123456789"],
    ["bytes=95-", 206, "bytes 95-99/100", "56789"],
    ["bytes=-3", 206, "bytes 97-99/100", "789"],
    ["bytes=98-1000", 206, "bytes 98-99/100", "89"],
    ["bytes=0-1,5-6", 200, null, text],
    ["lines=1-2", 200, null, text],
  ])("Range %s answers %i", async (range, status, contentRange, body) => {
    const answer = await it.get(`${base}/first/video.mp4`, { range });
    expect(answer.status).toBe(status);
    expect(answer.headers.get("content-range")).toBe(contentRange);
    expect(answer.headers.get("content-length")).toBe(String(body.length));
    expect(await answer.text()).toBe(body);
  });

  test("a range outside is 416 with the size, HEAD has the headers and no body", async () => {
    const outside = await it.get(`${base}/first/video.mp4`, { range: "bytes=100-" });
    expect(outside.status).toBe(416);
    expect(outside.headers.get("content-range")).toBe("bytes */100");
    expect(problemSchema.parse(await outside.json()).code).toBe("range_not_satisfiable");
    const head = await fetch(`${it.url}${base}/first/video.mp4`, { method: "HEAD" });
    expect(head.status).toBe(200);
    expect(head.headers.get("content-length")).toBe("100");
    expect(head.headers.get("accept-ranges")).toBe("bytes");
    expect(await head.text()).toBe("");
  });

  test("the ETag is the sha256: not modified, and a range only of the same content", async () => {
    const first = await it.get(`${base}/first/video.mp4`);
    const etag = first.headers.get("etag") ?? "";
    expect(etag).toBe(`"${createHash("sha256").update(text).digest("hex")}"`);
    await first.text();
    expect((await it.get(`${base}/first/video.mp4`, { "if-none-match": etag })).status).toBe(304);
    expect((await it.get(`${base}/first/video.mp4`, { range: "bytes=0-1", "if-range": etag })).status).toBe(206);
    expect((await it.get(`${base}/first/video.mp4`, { range: "bytes=0-1", "if-range": '"other"' })).status).toBe(200);
  });

  test("video plays in place, a page is saved and cannot run", async () => {
    const film = await it.get(`${base}/first/video.mp4`);
    expect(film.headers.get("content-disposition")).toBe('inline; filename="video.mp4"');
    const page = await it.get(`${base}/first/page.html`);
    expect(page.headers.get("content-disposition")).toBe('attachment; filename="page.html"');
    expect(page.headers.get("content-security-policy")).toContain("sandbox");
    await Promise.all([film.text(), page.text()]);
  });

  test("a name leads only to files of that job", async () => {
    for (const path of ["second/video.mp4", "first/other.mp4", "first/..%2f..%2fsecret", "uploads/video.mp4"]) {
      const answer = await it.get(`${base}/${path}`);
      expect(problemSchema.parse(await answer.json())).toMatchObject({ status: 404, code: "artifact_not_found" });
    }
  });
});

test.each([
  ["bytes=0-0", 1, { start: 0, end: 0 }],
  ["bytes=-5", 3, { start: 0, end: 2 }],
  ["bytes=-0", 3, "unsatisfiable"],
  ["bytes=0-", 0, "unsatisfiable"],
  ["bytes=5-2", 10, undefined],
  ["bytes=-", 10, undefined],
  [undefined, 10, undefined],
] as const)("range %s of %i bytes", (header, size, expected) => {
  expect(parseRange(header, size)).toEqual(expected);
});

test("a file name with quotes, line ends and unicode cannot break the header", () => {
  expect(disposition('a"b\r\nX: y\u00e9.mp4', "video/mp4")).toBe(
    "inline; filename=\"a_b__X_ y_.mp4\"; filename*=UTF-8''a%22b%0D%0AX%3A%20y%C3%A9.mp4",
  );
});
