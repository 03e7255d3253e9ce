// Plans pictures for a video that has none: gradients whose colours come from the job's id, so that every try on every host
// plans the same and two jobs differ. Pure; the media stage runs the plan as one FFmpeg process.
// The light stays between limits: dark enough for white captions, bright enough that no check takes a scene for black.
import { createHash } from "node:crypto";
import { mediaTypes } from "../domain/media-type.ts";
import type { MediaFacts } from "./probe-media.ts";

export type Background = { readonly file: string; readonly source: string; readonly facts: MediaFacts };

const width = 1920;
const height = 1080;
/** Lightness of the darkest and the brightest colour, 0..1; black detection begins at 0.1. */
const lightness = { from: 0.24, to: 0.5 } as const;

export const planBackgrounds = (seed: string, count: number): Background[] =>
  Array.from({ length: count }, (_, index) => {
    const bytes = createHash("sha256").update(`${seed}:${index}`).digest();
    const part = (at: number): number => (bytes[at] ?? 0) / 255;
    // One hue for the job, neighbours of it within a scene, a step around the circle from scene to scene.
    const hue = ((createHash("sha256").update(seed).digest()[0] ?? 0) / 255 + index * 0.13) % 1;
    const colours = [0, 1, 2].map((nth) => {
      const light =
        lightness.from + (lightness.to - lightness.from) * (nth === 1 ? 0.6 + 0.4 * part(1) : 0.5 * part(2 + nth));
      return toHex((hue + (nth - 1) * (0.05 + 0.06 * part(5 + nth))) % 1, 0.4 + 0.25 * part(9 + nth), light);
    });
    const points = {
      x0: Math.round(width * 0.4 * part(12)),
      y0: Math.round(height * 0.4 * part(13)),
      x1: Math.round(width * (0.7 + 0.3 * part(14))),
      y1: Math.round(height * (0.7 + 0.3 * part(15))),
    };
    const options = [
      `size=${width}x${height}:rate=25:seed=${index}:n=3`,
      ...colours.map((colour, nth) => `c${nth}=${colour}`),
      ...Object.entries(points).map(([name, value]) => `${name}=${value}`),
      // By number: the names are younger than the oldest supported FFmpeg. 0 linear, 1 radial.
      `type=${index % 2}`,
    ].join(":");
    // A little grain keeps the encoder from drawing bands into the gradient; luma only, and before it a fixed format,
    // because the source's own format carries alpha and differs between versions.
    const source = `gradients=${options},format=yuv444p,noise=c0s=4:c0_seed=${index + 1}:c0f=u,format=rgb24`;
    const facts = { ...mediaTypes.png, duration: 0, width, height, rotation: 0 };
    return { file: `background-${index}.png`, source, facts };
  });

/** One process for all of them: starting FFmpeg costs more than drawing a picture. */
export const backgroundArguments = (backgrounds: readonly Background[]): string[] => [
  "-loglevel",
  "level+warning",
  ...backgrounds.flatMap(({ source }) => ["-f", "lavfi", "-i", source]),
  ...backgrounds.flatMap(({ file }, index) => [
    ...["-map", `${index}:v`, "-frames:v", "1", "-fflags", "+bitexact"],
    // Level 1: a third of the time of the default for a quarter more bytes.
    ...["-c:v", "png", "-compression_level", "1", "-f", "image2", "-update", "1", file],
  ]),
];

/** HSL to 0xRRGGBB; all parts 0..1, a negative hue counts backwards. */
const toHex = (hue: number, saturation: number, light: number): string => {
  const a = saturation * Math.min(light, 1 - light);
  const channel = (n: number): string => {
    const k = (n + (((hue % 1) + 1) % 1) * 12) % 12;
    const value = light - a * Math.max(-1, Math.min(k - 3, 9 - k, 1));
    return Math.round(value * 255)
      .toString(16)
      .padStart(2, "0");
  };
  return `0x${channel(0)}${channel(8)}${channel(4)}`;
};
