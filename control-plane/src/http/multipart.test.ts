// Submissions with media over real sockets: safe names and order, bad names, bad media, broken forms, connections that end.
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { createServer } from "node:http";
import { type AddressInfo, connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { eventually, openTestEdge, sampleJob, type TestEdge } from "../testing/http-edge.ts";
import { submittedSchema } from "./job-schema.ts";
import { readMultipart } from "./multipart.ts";
import { type Problem, problemSchema } from "./problem.ts";

let it: TestEdge;
let clip: Buffer;
let picture: Buffer;
beforeAll(async () => {
  it = await openTestEdge();
  const dir = mkdtempSync(join(tmpdir(), "renderplane-media-"));
  const make = (name: string, ...more: string[]) => {
    const source = ["-f", "lavfi", "-i", "testsrc=size=64x64:rate=10:duration=0.5"];
    execFileSync("ffmpeg", ["-v", "error", ...source, ...more, join(dir, name)]);
    return readFileSync(join(dir, name));
  };
  clip = make("clip.mp4", "-c:v", "libx264");
  picture = make("picture.png", "-frames:v", "1");
  rmSync(dir, { recursive: true });
});
afterAll(() => it.close());

const partials = () => readdir(join(it.folder, "partial"));

let before: number;
const jobCount = async () => (await it.ctx.db.direct.query("select 1 from jobs")).rowCount;
beforeEach(async () => {
  before = await jobCount();
});

type Part = { readonly name: string; readonly data: Uint8Array | string };
const send = (files: readonly Part[], job: unknown = sampleJob, headers: Record<string, string> = {}) => {
  const form = new FormData();
  form.set("job", JSON.stringify(job));
  for (const file of files) form.append("media", new Blob([new Uint8Array(Buffer.from(file.data))]), file.name);
  return fetch(`${it.url}/api/v1/jobs`, { method: "POST", body: form, headers });
};
const problemOf = async (answer: Response): Promise<Problem> => {
  expect(answer.headers.get("content-type")).toBe("application/problem+json");
  return problemSchema.parse(await answer.json());
};

const uploadsOf = async (id: string) => {
  const { items } = (await (await it.get(`/api/v1/jobs/${id}/artifacts`)).json()) as {
    items: {
      stage: string;
      name: string;
      original_name: string;
      media_type: string;
      size_bytes: number;
      url: string;
    }[];
  };
  return items;
};

test("files are stored, named safely in the order of request.media, and served under their own names", async () => {
  const names = ['Ünï cödé 100% "it\'s": ok.mp4', "b.png", "日本.png"];
  const job = { ...sampleJob, request: { script: "Hi.", media: ["日本.png", names[0]] } };
  const answer = await send(
    [
      { name: names[0] ?? "", data: clip },
      { name: "b.png", data: picture },
      { name: "日本.png", data: Buffer.concat([picture, Buffer.from([0])]) },
    ],
    job,
  );
  expect(answer.status).toBe(201);
  const { id } = submittedSchema.parse(await answer.json());
  const { rows } = await it.ctx.db.direct.query<{ request: Record<string, unknown> }>(
    "select request from jobs where id = $1",
    [id],
  );
  expect(rows[0]?.request).toMatchObject({
    media: ["media-1.png", "Uni-code-100-it-s-ok.mp4"],
    media_names: { "media-1.png": "日本.png", "Uni-code-100-it-s-ok.mp4": names[0], "b.png": "b.png" },
  });
  const items = await uploadsOf(id);
  expect(items).toHaveLength(3);
  const film = items.find((i) => i.original_name === names[0]);
  expect(film).toMatchObject({
    stage: "uploads",
    name: "Uni-code-100-it-s-ok.mp4",
    media_type: "video/mp4",
    size_bytes: clip.length,
  });
  const bytes = await it.get(film?.url ?? "");
  expect(Buffer.from(await bytes.arrayBuffer()).equals(clip)).toBe(true);
  expect(bytes.headers.get("content-disposition")).toContain(
    "filename*=UTF-8''%C3%9Cn%C3%AF%20c%C3%B6d%C3%A9%20100%25%20%22it%27s%22%3A%20ok.mp4",
  );
});

test.each<[string, Part, string]>([
  ["an empty file", { name: "a.mp4", data: "" }, 'The file "a.mp4" is empty (0 bytes).'],
  [
    "a text named .mp4",
    { name: "a.mp4", data: "Just words.\n" },
    'The file "a.mp4" is text, not media, whatever its extension says.',
  ],
  [
    "an HLS playlist",
    { name: "a.mp4", data: "#EXTM3U\n#EXTINF:1\nfile:///etc/passwd\n" },
    "is a playlist (HLS or M3U), not media",
  ],
  [
    "a concat list",
    { name: "a.mp4", data: "ffconcat version 1.0\nfile '/etc/passwd'\n" },
    "is an FFmpeg concat list, not media",
  ],
  ["a bare concat list", { name: "a.mp4", data: "file '/etc/passwd'\n" }, "is an FFmpeg concat list, not media"],
  [
    "a DASH manifest",
    { name: "a.mp4", data: '<?xml version="1.0"?>\n<MPD xmlns="x">' },
    "is a playlist (DASH), not media",
  ],
  ["an SDP", { name: "a.mp4", data: "v=0\no=- 0 0 IN IP4 127.0.0.1\n" }, "is a session description (SDP), not media"],
  [
    "a program",
    { name: "a.mp4", data: Buffer.from("\x7fELF\x02\x01\x01".padEnd(64, "\0"), "latin1") },
    "is application/x-elf; MP4, MOV",
  ],
  ["noise", { name: "a.mp4", data: Buffer.alloc(5000, 0x9d) }, "is of an unknown type or damaged at its beginning"],
  [
    "a path",
    { name: "../../etc/passwd", data: "x" },
    "has a path in its name; send the plain file name without folders",
  ],
  ["a Windows path", { name: "..\\x.mp4", data: "x" }, "has a path in its name"],
  ["a control character", { name: "a\u0007.mp4", data: "x" }, "has control characters in its name; rename it"],
  [
    "a long name",
    { name: `${"n".repeat(300)}.mp4`, data: "x" },
    "has a name of 304 bytes, the limit is 255; shorten it",
  ],
])("%s is refused with a sentence and nothing is submitted", async (_what, part, sentence) => {
  const answer = await send([part]);
  expect(answer.status).toBe(422);
  const problem = await problemOf(answer);
  expect(problem.code).toBe("media_refused");
  expect(problem.detail).toContain(sentence);
  expect(problem.errors).toHaveLength(1);
  expect(problem.errors[0]?.pointer).toBe(`/media/${part.name.replaceAll("/", "~1")}`);
  expect(await jobCount()).toBe(before);
});

test("two files with one name are refused", async () => {
  const answer = await send([
    { name: "a.png", data: picture },
    { name: "a.png", data: picture },
  ]);
  expect(await problemOf(answer)).toMatchObject({
    code: "media_refused",
    errors: [{ pointer: "/media/a.png", detail: '"a.png" was sent twice; every file needs its own name' }],
  });
});

test("files for a pipeline that wants another kind, or none, are refused", async () => {
  const wrong = await send([{ name: "a.png", data: picture }], { ...sampleJob, pipeline: "transcode", request: {} });
  expect(wrong.status).toBe(422);
  expect((await problemOf(wrong)).detail).toContain("image/png");
  expect(await jobCount()).toBe(before);
});

test.each([
  [
    "two job parts",
    '--b\r\nContent-Disposition: form-data; name="job"\r\n\r\n{}\r\n--b\r\nContent-Disposition: form-data; name="job"\r\n\r\n{}\r\n--b--\r\n',
    400,
    "malformed_body",
  ],
  [
    "no job part",
    '--b\r\nContent-Disposition: form-data; name="media"; filename="a.png"\r\n\r\nPNG\r\n--b--\r\n',
    422,
    "media_refused",
  ],
  ["an unknown field", '--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n1\r\n--b--\r\n', 422, "invalid_request"],
  [
    "no final boundary",
    '--b\r\nContent-Disposition: form-data; name="job"\r\n\r\n{"user_id":"u","channel_id":"c","request":{"script":"Hi."}}\r\n',
    400,
    "malformed_body",
  ],
  ["no boundary at all", "nothing of a form", 400, "malformed_body"],
  ["an empty form", "--b--\r\n", 400, "malformed_body"],
  [
    "broken JSON in the job",
    '--b\r\nContent-Disposition: form-data; name="job"\r\n\r\n{oops\r\n--b--\r\n',
    400,
    "malformed_body",
  ],
])("a form with %s is refused and nothing is submitted", async (_what, body, status, code) => {
  const answer = await it.post("/api/v1/jobs", body, { "content-type": "multipart/form-data; boundary=b" });
  expect(answer.status).toBe(status);
  expect((await problemOf(answer)).code).toBe(code);
  expect(await jobCount()).toBe(before);
});

test("a form without a boundary in its Content-Type is malformed_body", async () => {
  const answer = await it.post("/api/v1/jobs", "x", { "content-type": "multipart/form-data" });
  expect(await problemOf(answer)).toMatchObject({ status: 400, code: "malformed_body" });
});

test("the job part may come as a file and after the media", async () => {
  const form = new FormData();
  form.append("media", new Blob([new Uint8Array(picture)]), "a.png");
  form.append("job", new Blob([JSON.stringify(sampleJob)], { type: "application/json" }), "job.json");
  expect((await fetch(`${it.url}/api/v1/jobs`, { method: "POST", body: form })).status).toBe(201);
});

test("a connection that breaks off in the middle of a file submits nothing and leaves no partial file", async () => {
  const { port } = new URL(it.url);
  const socket = connect(Number(port), "127.0.0.1");
  const head = `--b\r\nContent-Disposition: form-data; name="job"\r\n\r\n${JSON.stringify(sampleJob)}\r\n--b\r\nContent-Disposition: form-data; name="media"; filename="a.png"\r\n\r\n`;
  socket.write(
    `POST /api/v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 100000\r\n\r\n${head}`,
  );
  socket.write(picture);
  await eventually(async () => (await partials()).length > 0);
  socket.destroy();
  await eventually(async () => (await partials()).length === 0);
  expect(await jobCount()).toBe(before);
  expect((await it.get("/healthz")).status).toBe(200);
});

test("a file above the limit, and one file too many, are refused while they are read", async () => {
  const seen: unknown[] = [];
  const server = createServer(async (incoming, answer) => {
    const limits = { fileBytes: 1_000, files: 2 };
    await readMultipart(incoming, it.ctx.artifacts, limits).catch((error: unknown) => seen.push(error));
    answer.end();
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const post = (sizes: readonly number[]) => {
    const form = new FormData();
    form.set("job", "{}");
    for (const [i, size] of sizes.entries())
      form.append(
        "media",
        new Blob([new Uint8Array(Buffer.concat([picture, Buffer.alloc(size)]).subarray(0, size))]),
        `${i}.png`,
      );
    return fetch(`http://127.0.0.1:${(server.address() as AddressInfo).port}`, { method: "POST", body: form });
  };
  await post([1_000]);
  expect(seen).toEqual([]);
  await post([1_001]);
  expect(seen[0]).toMatchObject({
    code: "body_too_large",
    message: "The file 0.png is larger than 1000 bytes.",
    fields: [{ pointer: "/media/0.png" }],
  });
  await post([500, 501, 502]);
  expect(seen[1]).toMatchObject({ code: "body_too_large", message: "A job takes at most 2 files; there are more." });
  expect(await partials()).toEqual([]);
  await new Promise((resolve) => server.close(resolve));
});
