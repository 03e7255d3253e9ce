// Numbers that follow from a seed alone: the same seed, the same numbers, on every machine.

export type Random = {
  /** 0 <= n < 1. */
  fraction(): number;
  /** 0 <= n < count, whole. */
  below(count: number): number;
  /** True in `of` of a hundred. */
  chance(percent: number): boolean;
  pick<T>(items: readonly T[]): T;
};

/** mulberry32: 32 bits of state, good enough to choose among a few things. */
export const createRandom = (seed: number): Random => {
  let state = seed >>> 0;
  const fraction = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  const below = (count: number) => Math.floor(fraction() * count);
  return {
    fraction,
    below,
    chance: (percent) => fraction() * 100 < percent,
    pick: (items) => {
      const item = items[below(items.length)];
      if (item === undefined) throw new RangeError("there is nothing to pick from");
      return item;
    },
  };
};

/** A number that follows from the parts and nothing else, to derive a seed for one thing. */
export const mix = (...parts: readonly (string | number)[]): number => {
  let h = 2166136261;
  for (const char of parts.join("/")) h = Math.imul(h ^ char.charCodeAt(0), 16777619);
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
};

const letters = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/** 26 letters as in a ULID. Not in the order of time: whoever sorts by id must not rely on it. */
export const idLetters = (random: Random): string =>
  Array.from({ length: 26 }, () => letters[random.below(32)]).join("");
