// What a file is by its bytes, on real files of every accepted type, and the names under which files are stored.
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { sniffBytes, sniffMedia, storedName } from "./media.ts";

const dir = mkdtempSync(join(tmpdir(), "renderplane-sniff-"));
afterAll(() => rmSync(dir, { recursive: true }));

const picture = ["-f", "lavfi", "-i", "testsrc=size=176x144:rate=25:duration=0.2"];
const sound = ["-f", "lavfi", "-i", "sine=duration=0.2"];
const still = [...picture, "-frames:v", "1"];

test.each([
  ["mp4", picture, "video", "video/mp4"],
  ["mov", picture, "video", "video/quicktime"],
  ["mkv", picture, "video", "video/matroska"],
  ["webm", picture, "video", "video/webm"],
  ["avi", picture, "video", "video/vnd.avi"],
  ["mpg", picture, "video", "video/mpeg"],
  ["ts", picture, "video", "video/mp2t"],
  ["gif", picture, "picture", "image/gif"],
  ["jpg", still, "picture", "image/jpeg"],
  ["png", still, "picture", "image/png"],
  ["webp", still, "picture", "image/webp"],
  ["mp3", sound, "audio", "audio/mpeg"],
  ["wav", sound, "audio", "audio/wav"],
  ["flac", sound, "audio", "audio/flac"],
  ["ogg", sound, "audio", "audio/ogg"],
  ["m4a", sound, "audio", "audio/mp4"],
])("a real .%s is known by its bytes under any name", async (extension, input, group, mediaType) => {
  const path = join(dir, `x.${extension}`);
  execFileSync("ffmpeg", ["-v", "error", ...input, path]);
  const bytes = readFileSync(path);
  expect(await sniffMedia("misnamed.txt", bytes.subarray(0, sniffBytes), bytes.length)).toMatchObject({
    group,
    mediaType,
  });
});

test.each([
  ["x.bmp", still, "is image/bmp"],
  ["x.flv", picture, "is video/x-flv"],
])("%s is known and refused, because no stage opens it", async (name, input, reason) => {
  execFileSync("ffmpeg", ["-v", "error", ...input, join(dir, name)]);
  const bytes = readFileSync(join(dir, name));
  await expect(sniffMedia(name, bytes.subarray(0, sniffBytes), bytes.length)).rejects.toThrow(reason);
});

test("stored names keep to the alphabet of the store and never collide", () => {
  const taken = new Set<string>();
  for (const name of [
    "clip.mp4",
    "clip.mp4",
    ".hidden",
    "a b.mp4",
    "a/b.mp4",
    "é",
    "名前.mov",
    "名前2.mov",
    "-x-.png",
    "a".repeat(200),
  ]) {
    const stored = storedName(name, "mp4", taken);
    expect(stored).toMatch(/^[A-Za-z0-9][A-Za-z0-9._-]{0,119}$/);
    expect(taken.has(stored)).toBe(false);
    taken.add(stored);
  }
});
