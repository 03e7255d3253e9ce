// The common shape of all clips of a merge: size, frame rate, sound. Pure. What the caller asked for wins; else the largest
// picture and the fastest clip decide, so that no clip loses more than the bound of full HD takes from it.
import { frameRates, type MergeRequest, sampleRate, type Target } from "./merge-clips.ts";

/** As shown, before the pixel's own shape. */
export type ClipShape = {
  readonly width: number;
  readonly height: number;
  readonly pixelAspect: number;
  readonly fps: number;
};

/** Full HD, lying or standing. A caller who wants 4K says so in the request. */
const longSide = 1920;
const shortSide = 1080;
/** The scaler and H.264 with 4:2:0 want even sides; under 64 there is nothing to see. */
const even = (value: number): number => Math.min(3840, Math.max(64, 2 * Math.round(value / 2)));

export const commonTarget = (clips: readonly ClipShape[], asked: MergeRequest): Target => {
  const shapes = clips.map((clip) => ({ width: clip.width * clip.pixelAspect, height: clip.height }));
  const largest = shapes.reduce((best, shape) =>
    shape.width * shape.height > best.width * best.height ? shape : best,
  );
  const aspect = largest.width / largest.height;
  const bound = Math.min(
    1,
    longSide / Math.max(largest.width, largest.height),
    shortSide / Math.min(largest.width, largest.height),
  );
  const width = asked.width ?? even(asked.height === undefined ? largest.width * bound : asked.height * aspect);
  const height = asked.height ?? even(asked.width === undefined ? largest.height * bound : asked.width / aspect);
  return {
    width,
    height,
    fps: asked.fps ?? commonRate(Math.max(...clips.map((clip) => clip.fps))),
    fit: asked.fit,
    sample_rate: sampleRate,
    channels: 2,
  };
};

/** The next rate that players know: 23.976 -> 24, 29.97 -> 30, 15 -> 24; above 60 frames are dropped. */
const commonRate = (fps: number): Target["fps"] => frameRates.find((known) => known >= fps - 0.5) ?? 60;
