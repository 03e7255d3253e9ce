// Reads what one decode pass with blackdetect, freezedetect, silencedetect and ebur128 said on stderr. Pure.
// The filters report intervals; what of them is planned (a fade, a still scene, a pause) is taken away here, frame-exactly.
import { type Loudness, parseLoudness } from "./loudness.ts";

export type Interval = readonly [start: number, end: number];
export type DecodeReport = {
  readonly black: readonly Interval[];
  readonly frozen: readonly Interval[];
  readonly silent: readonly Interval[];
  readonly loudness: Loudness | undefined;
};

export const parseDecodeReport = (log: string, durationSeconds: number): DecodeReport => ({
  black: [...log.matchAll(/black_start:(\S+) black_end:(\S+)/g)].map((match) => [Number(match[1]), Number(match[2])]),
  frozen: paired(log, /freeze_start: (-?[\d.]+)/g, /freeze_end: (-?[\d.]+)/g, durationSeconds),
  silent: paired(log, /silence_start: (-?[\d.]+)/g, /silence_end: (-?[\d.]+)/g, durationSeconds),
  loudness: parseLoudness(log),
});

/** A start without an end lasts until the end of the file. */
const paired = (log: string, start: RegExp, end: RegExp, durationSeconds: number): Interval[] => {
  const ends = [...log.matchAll(end)].map((match) => Number(match[1]));
  return [...log.matchAll(start)].map((match, i) => [Math.max(0, Number(match[1])), ends[i] ?? durationSeconds]);
};

/** The longest piece of `found` that no planned interval covers, and where it begins. */
export const longestUnplanned = (
  found: readonly Interval[],
  planned: readonly Interval[],
): { readonly seconds: number; readonly at: number } => {
  let longest = { seconds: 0, at: 0 };
  for (const interval of found) {
    for (const [start, end] of without(interval, planned))
      if (end - start > longest.seconds) longest = { seconds: end - start, at: start };
  }
  return longest;
};

const without = (interval: Interval, planned: readonly Interval[]): Interval[] =>
  planned.reduce<Interval[]>(
    (pieces, [from, to]) =>
      pieces.flatMap(([start, end]): Interval[] =>
        to <= start || from >= end
          ? [[start, end]]
          : [
              ...(from > start ? ([[start, from]] as Interval[]) : []),
              ...(to < end ? ([[to, end]] as Interval[]) : []),
            ],
      ),
    [interval],
  );
