// What doctor finds out about this machine: programs and versions, encoders proved by a short real encode, the font of the
// captions, disk, Node, and the ports that quickstart wants. Programs are run with fixed arguments and a time limit.
import { execFile } from "node:child_process";
import { access, mkdtemp, rm, statfs } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { formatBytes } from "@renderplane/proto/kernel/units.ts";
import type { Finding } from "../commands/doctor.ts";

const run = promisify(execFile);
const programMs = 10_000;
/** The oldest FFmpeg that the render graph was tried on. */
const oldestFfmpeg = [5, 1] as const;
/** A render of ten minutes needs about this much scratch; below it a warning, below a tenth of it a failure. */
const wantedDiskBytes = 10 * 1024 ** 3;
const oldestNode = 24;
const font = "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf";
const encoders: readonly { name: string; isNeeded: boolean; args: readonly string[] }[] = [
  { name: "libx264", isNeeded: true, args: ["-f", "lavfi", "-i", "testsrc2=s=640x360:d=0.1", "-c:v", "libx264"] },
  { name: "aac", isNeeded: true, args: ["-f", "lavfi", "-i", "sine=d=0.2", "-c:a", "aac"] },
  {
    name: "h264_nvenc",
    isNeeded: false,
    args: ["-f", "lavfi", "-i", "testsrc2=s=640x360:d=0.1", "-pix_fmt", "yuv420p", "-c:v", "h264_nvenc"],
  },
];
/** HTTP, agents, enrolment. In use is fine when it is ours; doctor cannot know, so it only says so. */
const ports = [8000, 7443, 7444];

export const hereChecks = async (env: NodeJS.ProcessEnv): Promise<Finding[]> => {
  const ffmpeg = env.FFMPEG_PATH ?? "ffmpeg";
  return Promise.all([
    ffmpegCheck("ffmpeg", ffmpeg),
    ffmpegCheck("ffprobe", env.FFPROBE_PATH ?? "ffprobe"),
    espeakCheck(env.ESPEAK_PATH ?? "espeak-ng"),
    ...encoders.map((encoder) => encoderCheck(ffmpeg, encoder)),
    fontCheck(),
    diskCheck(),
    nodeCheck(),
    portCheck(),
  ]);
};

const install = (name: string) => `sudo apt-get install -y --no-install-recommends ${name}`;

/** "ffmpeg version 5.1.9-0+deb12u1 Copyright" or "n7.1-git": major and minor, or nothing for a build from source. */
export const versionOf = (text: string): { label: string; numbers: readonly [number, number] | undefined } => {
  const label = /version (\S+)/.exec(text)?.[1] ?? "unknown";
  const match = /^n?(\d+)\.(\d+)/.exec(label);
  return { label, numbers: match ? [Number(match[1]), Number(match[2])] : undefined };
};

const ffmpegCheck = async (check: string, program: string): Promise<Finding> => {
  const output = await runText(program, ["-version"]);
  if (output === undefined)
    return { check, verdict: "failed", value: `${program} cannot be run`, fix: install("ffmpeg") };
  const { label, numbers } = versionOf(output);
  const wanted = oldestFfmpeg.join(".");
  if (numbers === undefined)
    return { check, verdict: "warning", value: `${label}, of unknown age`, fix: `${wanted} or newer is needed` };
  const isOld = numbers[0] < oldestFfmpeg[0] || (numbers[0] === oldestFfmpeg[0] && numbers[1] < oldestFfmpeg[1]);
  return isOld
    ? {
        check,
        verdict: "failed",
        value: label,
        fix: `${wanted} or newer is needed; set ${check.toUpperCase()}_PATH to one`,
      }
    : { check, verdict: "ok", value: label, fix: "" };
};

const espeakCheck = async (program: string): Promise<Finding> => {
  const output = await runText(program, ["--version"]);
  return output === undefined
    ? { check: "espeak-ng", verdict: "failed", value: `${program} cannot be run`, fix: install("espeak-ng") }
    : { check: "espeak-ng", verdict: "ok", value: /(\d+\.[\d.]+)/.exec(output)?.[1] ?? "present", fix: "" };
};

/** A listed encoder may still not work here (no device, no session), so it has to encode something. */
const encoderCheck = async (ffmpeg: string, encoder: (typeof encoders)[number]): Promise<Finding> => {
  const folder = await mkdtemp(join(tmpdir(), "renderplane-doctor-"));
  try {
    const args = ["-hide_banner", "-nostdin", "-loglevel", "error", ...encoder.args, join(folder, "out.mp4")];
    const hasWorked = (await runText(ffmpeg, args)) !== undefined;
    const check = `encoder ${encoder.name}`;
    if (hasWorked) return { check, verdict: "ok", value: "encoded a test clip", fix: "" };
    return encoder.isNeeded
      ? { check, verdict: "failed", value: "could not encode a test clip", fix: install("ffmpeg") }
      : { check, verdict: "ok", value: "not on this machine; renders use the CPU", fix: "" };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
};

const fontCheck = async (): Promise<Finding> => {
  const isThere = await access(font).then(
    () => true,
    () => false,
  );
  return isThere
    ? { check: "font", verdict: "ok", value: font, fix: "" }
    : { check: "font", verdict: "failed", value: `${font} is missing`, fix: install("fonts-dejavu-core") };
};

const diskCheck = async (): Promise<Finding> => {
  const { bavail, bsize } = await statfs(process.cwd());
  const free = bavail * bsize;
  const value = `${formatBytes(free)} free in ${process.cwd()}`;
  if (free >= wantedDiskBytes) return { check: "disk", verdict: "ok", value, fix: "" };
  const verdict = free < wantedDiskBytes / 10 ? "failed" : "warning";
  return { check: "disk", verdict, value, fix: `make room; ${formatBytes(wantedDiskBytes)} is comfortable` };
};

const nodeCheck = async (): Promise<Finding> => {
  const isOld = Number(process.versions.node.split(".")[0]) < oldestNode;
  return isOld
    ? { check: "node", verdict: "failed", value: process.version, fix: "run npm ci in the checkout; it brings Node 24" }
    : { check: "node", verdict: "ok", value: process.version, fix: "" };
};

const portCheck = async (): Promise<Finding> => {
  const taken: number[] = [];
  for (const port of ports) if (!(await isFree(port))) taken.push(port);
  const value =
    taken.length === 0 ? `${ports.join(", ")} are free` : `${taken.join(", ")} in use (fine when it is Renderplane)`;
  return { check: "ports", verdict: "ok", value, fix: "" };
};

const isFree = (port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const probe = createServer();
    probe.once("error", () => resolve(false));
    probe.listen(port, "127.0.0.1", () => probe.close(() => resolve(true)));
  });

const runText = async (program: string, args: readonly string[]): Promise<string | undefined> => {
  try {
    const { stdout, stderr } = await run(program, args, { timeout: programMs, maxBuffer: 1024 * 1024 });
    return stdout + stderr;
  } catch {
    return undefined;
  }
};
