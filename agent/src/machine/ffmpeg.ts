// FFmpeg on this host: is it there, is it new enough, which encoders really work, and the one place that builds its command lines.
// Running jobs is machine/process.ts; planning what to run is stages/. fluent-ffmpeg is used as argument builder only, because
// its progress, errors, kill and capability checks do not hold on FFmpeg 7 and later.
// An encoder counts only when it encoded here and now: every build lists encoders whose hardware is not there.
import { execFile } from "node:child_process";
import { ConfigError } from "@renderplane/proto/kernel/process/environment.ts";

/** Debian 12's release is the oldest that every plan was run on. libavutil is what a build without a release number tells. */
const oldest = { major: 5, minor: 1, libavutil: { major: 57, minor: 28 } };
const installHint =
  "Install it with: sudo apt-get install -y --no-install-recommends ffmpeg espeak-ng fonts-dejavu-core (Debian 12 or newer, Ubuntu 24.04), or set FFMPEG_PATH and FFPROBE_PATH.";
/** -version prints a few lines at once; slower is a broken disk or a wrong program. */
const versionLimitMs = 10_000;
/** A first CUDA call without persistence mode takes seconds; a working CPU encoder needs 0.1 s. */
const canaryLimitMs = 10_000;
const maxOutputBytes = 1024 * 1024;

export type FfmpegInput = { readonly path: string; readonly options?: readonly string[] };
export type FfmpegPlan = {
  /** Options before the first input, e.g. ["-loglevel", "level+warning"]. */
  readonly globals?: readonly string[];
  readonly inputs: readonly FfmpegInput[];
  /** Chains of -filter_complex, joined with ";". */
  readonly graph?: readonly string[];
  readonly outputs: readonly { readonly path: string; readonly options: readonly string[] }[];
};

/** The arguments of one run. Each option is one element: nothing is split at blanks, nothing passes a shell. */
export const ffmpegArguments = async (plan: FfmpegPlan): Promise<string[]> => {
  const { default: fluent } = await import("fluent-ffmpeg");
  const command = fluent();
  for (const input of plan.inputs) {
    command.input(input.path);
    // A single option would be split at its blanks; so options go in as many, and a lone one is refused.
    if (input.options?.length === 1) throw new RangeError(`an input option needs its value: ${input.options[0]}`);
    if (input.options && input.options.length > 0) command.inputOptions(...input.options);
  }
  if (plan.graph && plan.graph.length > 0) command.complexFilter(plan.graph.join(";"));
  for (const output of plan.outputs) {
    if (output.options.length < 2) throw new RangeError(`an output needs options with values: ${output.path}`);
    command.output(output.path).outputOptions(...output.options);
  }
  return [...(plan.globals ?? []), ...command._getArguments()];
};

/** "5.1.9-0+deb12u1", or "N-66595-g…" for a build from git. Undefined when this is no answer of FFmpeg. */
export const parseVersion = (text: string): { readonly version: string; readonly isEnough: boolean } | undefined => {
  const version = /^ff(?:mpeg|probe) version (\S+)/m.exec(text)?.[1];
  if (version === undefined) return undefined;
  const release = /^n?(\d+)\.(\d+)/.exec(version);
  if (release) return { version, isEnough: isAtLeast(release, oldest) };
  const library = /^libavutil\s+(\d+)\.\s*(\d+)/m.exec(text);
  return { version, isEnough: library !== null && isAtLeast(library, oldest.libavutil) };
};

const isAtLeast = (found: RegExpExecArray, bound: { readonly major: number; readonly minor: number }): boolean => {
  const [major, minor] = [Number(found[1]), Number(found[2])];
  return major > bound.major || (major === bound.major && minor >= bound.minor);
};

/** Version of ffmpeg. Throws ConfigError when ffmpeg or ffprobe is missing, does not run, or is too old. */
export const checkFfmpeg = async (paths: { readonly ffmpeg: string; readonly ffprobe: string }): Promise<string> => {
  const versions = await Promise.all([
    versionOf("FFmpeg", "FFMPEG_PATH", paths.ffmpeg),
    versionOf("ffprobe", "FFPROBE_PATH", paths.ffprobe),
  ]);
  return versions[0];
};

const versionOf = async (name: string, setting: string, path: string): Promise<string> => {
  const ran = await runShort(path, ["-version"], versionLimitMs);
  if (ran.missing) throw new ConfigError(`${name} was not found: ${path} (${setting}). ${installHint}`);
  const parsed = parseVersion(ran.stdout);
  if (!ran.ok || parsed === undefined)
    throw new ConfigError(
      `${name} does not run: \`${path} -version\` (${setting}) said ${JSON.stringify((ran.stderr || ran.stdout).slice(0, 300))}. ${installHint}`,
    );
  if (!parsed.isEnough)
    throw new ConfigError(
      `${name} ${oldest.major}.${oldest.minor} or newer is needed, found ${parsed.version} at ${path} (${setting}). ${installHint}`,
    );
  return parsed.version;
};

/** True when `espeak-ng --version` answers. */
export const hasEspeak = async (path: string): Promise<boolean> =>
  (await runShort(path, ["--version"], versionLimitMs)).ok;

export type CanaryEncoder = "libx264" | "aac" | "h264_nvenc";

/** Encodes three frames (NVENC refuses pictures under about 145x49). `gpuUuid` pins the GPU. */
export const encoderWorks = async (ffmpeg: string, encoder: CanaryEncoder, gpuUuid?: string): Promise<boolean> => {
  const source =
    encoder === "aac" ? "sine=frequency=440:sample_rate=48000:duration=0.1" : "color=c=black:s=640x360:r=30";
  const args = ["-v", "error", "-nostdin", "-f", "lavfi", "-i", source];
  if (encoder === "aac") args.push("-c:a", "aac");
  else args.push("-frames:v", "3", "-pix_fmt", "yuv420p", "-c:v", encoder);
  // With one visible device, index 0 is that device.
  if (encoder === "h264_nvenc") args.push("-gpu", "0");
  const env = gpuUuid === undefined ? {} : { CUDA_VISIBLE_DEVICES: gpuUuid };
  return (await runShort(ffmpeg, [...args, "-f", "null", "-"], canaryLimitMs, env)).ok;
};

type ShortRun = { readonly ok: boolean; readonly missing: boolean; readonly stdout: string; readonly stderr: string };

/** A question to a program, bounded in time and output. Never rejects. */
const runShort = (
  path: string,
  args: readonly string[],
  limitMs: number,
  env: { readonly [name: string]: string } = {},
): Promise<ShortRun> =>
  new Promise((resolve) => {
    execFile(
      path,
      [...args],
      {
        timeout: limitMs,
        killSignal: "SIGKILL",
        maxBuffer: maxOutputBytes,
        env: { PATH: process.env.PATH ?? "", LC_ALL: "C.UTF-8", ...env },
      },
      (error, stdout, stderr) => {
        const code = error?.code as unknown;
        resolve({ ok: error === null, missing: code === "ENOENT", stdout, stderr });
      },
    );
  });
