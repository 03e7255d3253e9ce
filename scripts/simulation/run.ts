// Plays seed after seed until one fails or the runs are done, and tells what a person needs: the command that replays it and the
// shortest history that still breaks the same rule.
import { play, type Verdict } from "./history.ts";
import { type Event, planOf } from "./plan.ts";
import type { Rig } from "./rig.ts";
import { ruleOf, shrink } from "./shrink.ts";

export type Failure = {
  readonly seed: number;
  readonly broken: string;
  readonly events: readonly Event[];
  readonly shortest: Verdict;
};
export type Report = { readonly runs: number; readonly seconds: number; readonly failures: readonly Failure[] };

export const replayCommand = (seed: number): string => `npm run test:sim -- --seed ${seed} --runs 1`;

/** Throws what the signal was aborted with: between two histories. */
export const runSeeds = async (
  rig: Rig,
  options: {
    readonly from: number;
    readonly runs: number;
    /** Seeds are from, from + step, … */
    readonly step?: number;
    /** Failures after which it stops. Default 1. */
    readonly stopAfter?: number;
    readonly onPlayed?: (seed: number, verdict: Verdict) => void;
    readonly signal?: AbortSignal;
  },
): Promise<Report> => {
  const began = performance.now();
  const failures: Failure[] = [];
  let runs = 0;
  for (; runs < options.runs && failures.length < (options.stopAfter ?? 1); runs++) {
    options.signal?.throwIfAborted();
    const seed = options.from + runs * (options.step ?? 1);
    const events = planOf(seed);
    const verdict = await play(rig, seed, events);
    options.onPlayed?.(seed, verdict);
    if (verdict.broken !== undefined) failures.push(await shortest(rig, seed, events, verdict, options.signal));
  }
  return { runs, seconds: (performance.now() - began) / 1000, failures };
};

const shortest = async (
  rig: Rig,
  seed: number,
  events: readonly Event[],
  first: Verdict,
  signal?: AbortSignal,
): Promise<Failure> => {
  const broken = first.broken ?? "";
  const rule = ruleOf(broken);
  const less = await shrink(events, async (candidate) => {
    signal?.throwIfAborted();
    const verdict = await play(rig, seed, candidate);
    return verdict.broken !== undefined && ruleOf(verdict.broken) === rule;
  });
  return { seed, broken, events: less, shortest: await play(rig, seed, less) };
};

/** Lines in which nothing comes of anything; --words prints them too. */
const routine = /heartbeat|the health of|: (\[\]|0|done)$/;

/** What is printed of a failure. */
export const tell = ({ seed, broken, events, shortest: told }: Failure): string =>
  [
    `seed ${seed}: ${broken}`,
    `  replay: ${replayCommand(seed)}`,
    `  shortest history that breaks the same rule, ${events.length} events:`,
    ...told.words.filter((line) => !routine.test(line)).map((line) => `    ${line}`),
  ].join("\n");
