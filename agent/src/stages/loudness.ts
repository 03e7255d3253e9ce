// Loudness of speech in two passes: measure the evened voice, then one fixed gain and a limiter that looks between the samples.
// Pure: filter texts out, FFmpeg's summary in. A fixed gain instead of loudnorm's second pass, because loudnorm silently turns
// to its dynamic mode (another sound, 192 kHz) when the gain would pass its peak limit; measured, both end at -14.0 LUFS.
// Where the limiter has work to do it takes loudness away; then the gain is tried and corrected until the figure holds.

export const targetLufs = -14;
/** Below full scale by 2 dB: AAC adds 0.2 to 0.5 dB of peak, and -1 dBTP must hold in the finished file. */
const limit = 0.794;
/** BS.1770 gates at -70: this is silence, and no gain makes a voice of it. */
const silenceLufs = -69;
/** espeak-ng and the speech services stay within 20 dB of the target; more than 40 would raise noise. */
const maxGainDb = 40;

/** Takes rumble away, evens out loud and quiet words, and tames peaks, so that a fixed gain can reach the target. */
export const evenVoice = [
  "aresample=48000",
  "highpass=f=70",
  "aformat=sample_fmts=fltp:sample_rates=48000:channel_layouts=stereo",
  "acompressor=threshold=-24dB:ratio=3:attack=8:release=180:makeup=2",
  "volume=6dB",
  "alimiter=limit=0.7:level=disabled:attack=5:release=60",
].join(",");

/** Prints a summary at the end and no line per frame (`verbose` is below the info level; `quiet` is unknown to 5.1). */
export const measure = "ebur128=peak=true:framelog=verbose";

/** The voice in the length of the video, so that both are measured over the same blocks. */
export const padTo = (seconds: number): string =>
  `apad=whole_dur=${seconds.toFixed(6)},atrim=end=${seconds.toFixed(6)}`;

export type Loudness = {
  readonly integratedLufs: number;
  /** -Infinity for silence. */
  readonly truePeakDb: number;
};

/** The last summary of the log: 5.1 prints two, the first of them empty. */
export const parseLoudness = (log: string): Loudness | undefined => {
  const summary = log.split("Summary:").at(-1) ?? "";
  const integrated = /\bI:\s*(-?[\d.]+) LUFS/.exec(summary)?.[1];
  const peak = /\bPeak:\s*(-?(?:[\d.]+|inf)) dBFS/.exec(summary)?.[1];
  if (integrated === undefined || peak === undefined) return undefined;
  return {
    integratedLufs: Number(integrated),
    truePeakDb: peak.endsWith("inf") ? Number.NEGATIVE_INFINITY : Number(peak),
  };
};

/** 0 for silence, which stays silent for the validation to find. */
export const gainFor = (measured: Loudness): number =>
  measured.integratedLufs <= silenceLufs
    ? 0
    : Math.max(-maxGainDb, Math.min(maxGainDb, targetLufs - measured.integratedLufs));

/** The evened voice peaks at -3 dB and the last limiter begins at -2: up to this gain it does nothing, and the sum is exact. */
const exactUpToDb = 1;
const closeEnoughLu = 0.3;
/** A very uneven voice needs two corrections; what is still wrong then is for the validation to judge. */
export const maxTrials = 3;
export const needsTrial = (gainDb: number): boolean => gainDb > exactUpToDb;

/** The gain after a trial of `gainDb` measured this loudness; the same gain when it is good or hopeless (silence). */
export const corrected = (gainDb: number, tried: Loudness): number => {
  const missing = targetLufs - tried.integratedLufs;
  if (Math.abs(missing) <= closeEnoughLu || tried.integratedLufs <= silenceLufs) return gainDb;
  // The limiter eats a part of every further decibel, hence more than what is missing.
  return Math.min(maxGainDb, gainDb + missing * 1.5);
};

/** The limiter runs at four times the rate to see peaks between samples. */
export const amplify = (gainDb: number): string =>
  [
    `volume=${gainDb.toFixed(2)}dB`,
    "aresample=192000",
    `alimiter=limit=${limit}:level=disabled:attack=5:release=60`,
    "aresample=48000",
  ].join(",");
