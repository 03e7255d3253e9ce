// Small media files for tests of stages, made by FFmpeg itself: the ordinary ones and every odd one that callers send.
// Each is made once in a folder of the test and named by what is special about it.
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";

const clip = (seconds: number, size = "320x180", rate = 30) => `testsrc2=s=${size}:r=${rate}:d=${seconds}`;
const h264 = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"];
const lavfi = (source: string) => ["-f", "lavfi", "-i", source];

const recipes = {
  "clip.mp4": [...lavfi(clip(2)), ...lavfi("sine=f=300:d=2"), ...h264, "-c:a", "aac", "-shortest"],
  "no-audio.mp4": [...lavfi(clip(2)), ...h264],
  "one-frame.mp4": [...lavfi(clip(1)), "-frames:v", "1", ...h264],
  // The test source itself makes even pictures only.
  "odd.mkv": [
    ...[...lavfi(clip(1)), "-vf", "format=yuv444p,scale=321:181"],
    ...["-c:v", "libx264", "-preset", "ultrafast"],
  ],
  // Frames at 0, 1, 4, 9 … thirtieths of a second.
  "variable-rate.mkv": [...lavfi(clip(2)), "-vf", "select='eq(mod(sqrt(n)\\,1)\\,0)'", "-fps_mode", "vfr", ...h264],
  "portrait.mp4": [...lavfi(clip(1, "180x320")), ...h264],
  "anamorphic.mp4": [...lavfi(clip(1, "320x240")), "-vf", "setsar=4/3", ...h264],
  "picture.jpg": [...lavfi(clip(1, "641x359")), "-frames:v", "1"],
  "alpha.png": [...lavfi("color=red@0.5:s=200x300,format=rgba"), "-frames:v", "1"],
  "dot.png": [...lavfi("color=blue:s=1x1,format=rgb24"), "-frames:v", "1"],
  "strip.png": [...lavfi("color=green:s=3x2000,format=rgb24"), "-frames:v", "1"],
  "animation.gif": [...lavfi(clip(1, "160x90", 10))],
  "music.mp3": [...lavfi("sine=f=300:d=1")],
  "rotated.mp4": [],
  "truncated.mp4": [],
} satisfies { readonly [name: string]: readonly string[] };

export type MediaName = keyof typeof recipes;
export type TestMedia = {
  readonly dir: string;
  /** Path of the named file. */
  make(name: MediaName): string;
  /** Runs FFmpeg in the folder and answers with the path of the new file. */
  run(name: string, args: readonly string[]): string;
  remove(): void;
};

export const createTestMedia = (): TestMedia => {
  const dir = mkdtempSync(path.join(tmpdir(), "renderplane-media-"));
  const run = (name: string, args: readonly string[]): string => {
    const file = path.join(dir, name);
    const ran = spawnSync("ffmpeg", ["-hide_banner", "-nostdin", "-v", "error", "-y", ...args, file], {
      encoding: "utf8",
      timeout: 60_000,
    });
    if (ran.status !== 0) throw new Error(`cannot make ${name}: ${ran.stderr}`);
    return file;
  };
  const make = (name: MediaName): string => {
    const file = path.join(dir, name);
    if (existsSync(file)) return file;
    // Turned by metadata only, as telephones do.
    if (name === "rotated.mp4")
      return run(name, ["-i", make("no-audio.mp4"), "-c", "copy", "-metadata:s:v:0", "rotate=90"]);
    if (name === "truncated.mp4") {
      const whole = run("whole.mp4", [...lavfi(clip(4, "640x360")), ...h264, "-movflags", "+faststart"]);
      const cut = spawnSync("head", ["-c", "60000", whole]);
      writeFileSync(file, cut.stdout);
      return file;
    }
    return run(name, recipes[name]);
  };
  return { dir, make, run, remove: () => rmSync(dir, { recursive: true, force: true }) };
};

/** A spoken sentence of two seconds: long enough for two scenes and their crossfade. */
export const speak = (media: TestMedia, text = "This is a short test of the voice."): string => {
  const wav = path.join(media.dir, "speech.wav");
  const spoken = spawnSync("espeak-ng", ["-v", "en-us", "--stdin", "-w", wav], { input: text, encoding: "utf8" });
  if (spoken.status !== 0) throw new Error(`espeak-ng failed: ${spoken.stderr}`);
  return media.run("speech.flac", ["-i", wav]);
};
