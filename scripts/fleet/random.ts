// Randomness that a seed repeats: one stream a purpose, so that a draw more in one place moves nothing in another.
// Simulations use nothing else; Math.random in them would make a run that cannot be repeated.

export type Random = {
  /** 0 <= x < 1. */
  readonly next: () => number;
  /** 0 <= x < count, whole. */
  readonly below: (count: number) => number;
  readonly pick: <T>(items: readonly T[]) => T;
  /** Mean `mean`: the gaps of a Poisson process. */
  readonly exponential: (mean: number) => number;
  /** Half of the draws below `median`; sigma of the logarithm. */
  readonly lognormal: (median: number, sigma: number) => number;
};

export const createRandom = (...seed: readonly (number | string)[]): Random => {
  let state = hash(seed.join("\n"));
  // Mulberry32: 2^32 draws before it repeats, and a run needs millions.
  const next = () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  const below = (count: number) => Math.floor(next() * count);
  // Box and Muller; 1 - x because the logarithm of 0 has no end.
  const normal = () => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next());
  return {
    next,
    below,
    pick: (items) => {
      if (items.length === 0) throw new Error("nothing to pick from");
      return items[below(items.length)] as (typeof items)[number];
    },
    exponential: (mean) => -mean * Math.log(1 - next()),
    lognormal: (median, sigma) => median * Math.exp(sigma * normal()),
  };
};

/** FNV-1a, then mixed: seeds that differ in one digit give streams that have nothing in common. */
const hash = (text: string): number => {
  let h = 0x811c9dc5;
  for (const byte of Buffer.from(text, "utf8")) h = Math.imul(h ^ byte, 0x01000193);
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  return (h ^ (h >>> 13)) | 0;
};
