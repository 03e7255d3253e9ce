// The package of a real, small video: thumbnail, metadata, checksums that sha256sum verifies, the video untouched.
import { execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { StageFailure } from "../work/contract.ts";
import { packageStage } from "./package.ts";
import { createTestContext, type TestContext, type TestContextOptions } from "./testing.ts";

const folder = mkdtempSync(path.join(tmpdir(), "renderplane-package-"));
const makeVideo = (name: string, source: string, ...more: string[]): void => {
  const args = [
    "-v",
    "error",
    "-y",
    "-f",
    "lavfi",
    "-i",
    source,
    "-c:v",
    "libx264",
    "-preset",
    "ultrafast",
    "-pix_fmt",
    "yuv420p",
    ...more,
    name,
  ];
  execFileSync("ffmpeg", args, { cwd: folder });
};
beforeAll(() => {
  makeVideo("video.mp4", "testsrc2=size=320x180:rate=30:duration=3", "-g", "60");
  makeVideo("one-frame.mp4", "testsrc2=size=320x180:rate=30:duration=3", "-frames:v", "1");
  // Half a second of black first: the best frame is not the first one.
  makeVideo(
    "late.mp4",
    "color=black:size=320x180:rate=30:duration=0.5[a];testsrc2=size=320x180:rate=30:duration=4.5[b];[a][b]concat",
    "-g",
    "15",
  );
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const toRemove: (() => void)[] = [];
afterEach(() => {
  for (const remove of toRemove.splice(0)) remove();
});

const captions = "1\n00:00:00,000 --> 00:00:01,000\nIt's 100 %: “naïve”\n";
const contextFor = (video: string, options: TestContextOptions = {}): TestContext => {
  const made = createTestContext({
    stage: "upload_preparation",
    results: { video_rendering: { duration: 3 }, media_collection: { items: [] } },
    ...options,
  });
  toRemove.push(made.remove);
  made.addInput("script_generation", "script.txt", { bytes: "Bees dance: it's “100 %” true. They hum.\n" });
  made.addInput("video_rendering", "video.mp4", { path: path.join(folder, video) });
  made.addInput("video_rendering", "captions.srt", { bytes: captions });
  return made;
};
const jpegOf = (made: TestContext) =>
  execFileSync(
    "ffprobe",
    ["-v", "error", "-show_entries", "stream=codec_name,width,height", "-of", "csv=p=0", "thumbnail.jpg"],
    { cwd: made.dir },
  )
    .toString()
    .trim();

describe("the package", () => {
  test("[S162] holds video, 1280x720 thumbnail, metadata, captions and checksums that verify", async () => {
    const made = contextFor("video.mp4");
    const end = await packageStage.run(made.context);
    expect(end.outputs.map((output) => output.name)).toEqual([
      "video.mp4",
      "thumbnail.jpg",
      "metadata.json",
      "captions.srt",
      "checksums.sha256",
    ]);
    expect(end.result).toMatchObject({
      upload_ready: true,
      thumbnail: "thumbnail.jpg",
      shortened: [],
      metadata: {
        title: "Bees dance: it's “100 %” true.",
        description: "Bees dance: it's “100 %” true. They hum.",
        tags: ["ytempire", "automated"],
        category: "22",
        privacy: "private",
      },
    });
    expect(jpegOf(made)).toBe("mjpeg,1280,720");
    expect(JSON.parse(readFileSync(path.join(made.dir, "metadata.json"), "utf8"))).toEqual(end.result.metadata);
    const verified = execFileSync("sha256sum", ["-c", "checksums.sha256"], { cwd: made.dir }).toString();
    expect(verified).toBe("video.mp4: OK\nthumbnail.jpg: OK\nmetadata.json: OK\ncaptions.srt: OK\n");
    expect(readFileSync(path.join(made.dir, "video.mp4")).equals(readFileSync(path.join(folder, "video.mp4")))).toBe(
      true,
    );
    expect(readFileSync(path.join(made.dir, "captions.srt"), "utf8")).toBe(captions);
  });

  test("a video of one frame has a thumbnail", async () => {
    const made = contextFor("one-frame.mp4");
    await packageStage.run(made.context);
    expect(jpegOf(made)).toBe("mjpeg,1280,720");
  });

  test("the thumbnail is not the black first frame", async () => {
    const made = contextFor("late.mp4");
    await packageStage.run(made.context);
    const luma = execFileSync(
      "ffmpeg",
      ["-v", "error", "-i", "thumbnail.jpg", "-vf", "scale=1:1,format=gray", "-f", "rawvideo", "-"],
      { cwd: made.dir },
    );
    expect(luma[0]).toBeGreaterThan(50);
  });

  test("after an agent restart the package is the same", async () => {
    const made = contextFor("video.mp4");
    const end = await packageStage.run(made.context);
    expect(await packageStage.run(made.again().context)).toEqual(end);
    expect(made.steps).toHaveLength(1);
  });

  test("texts of the caller reach no argument and no file name", async () => {
    const title = "../../etc/passwd; -i x '\"%: [ü]";
    const made = contextFor("video.mp4", { request: { title } });
    const end = await packageStage.run(made.context);
    expect(end.result.metadata).toMatchObject({ title });
    expect(JSON.stringify(made.steps.map((step) => step.spec))).not.toContain("passwd");
    expect(readdirSync(made.dir).sort()).toEqual([
      "captions.srt",
      "checksums.sha256",
      "inputs",
      "metadata.json",
      "thumbnail.jpg",
      "video.mp4",
    ]);
  });

  test("authors of stock clips are credited in the description", async () => {
    const attribution = { author: "Ana", page_url: "https://www.pexels.com/video/1/", licence: "Pexels License" };
    const items = [
      { name: "scene-000.mp4", attribution },
      { name: "scene-001.mp4", attribution },
      { name: "scene-002.png" },
    ];
    const made = contextFor("video.mp4", {
      results: { video_rendering: { duration: 3 }, media_collection: { items } },
    });
    const end = await packageStage.run(made.context);
    expect(end.result.metadata).toMatchObject({
      description:
        "Bees dance: it's “100 %” true. They hum.\nVideo by Ana (Pexels License): https://www.pexels.com/video/1/",
    });
  });

  test("a video that is no video fails and nothing is called ready", async () => {
    const made = createTestContext({ stage: "upload_preparation", results: { video_rendering: { duration: 3 } } });
    toRemove.push(made.remove);
    made.addInput("script_generation", "script.txt", { bytes: "Hi." });
    made.addInput("video_rendering", "video.mp4", { bytes: "no video" });
    made.addInput("video_rendering", "captions.srt", { bytes: captions });
    const error = await packageStage.run(made.context).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(StageFailure);
    expect((error as StageFailure).failureClass).toBe("input_corrupt");
  });
});
