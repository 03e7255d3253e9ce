// What the simulated agents of one process count. Counters only grow; whoever reads them takes differences. Sent to the parent
// process as JSON once a second and merged there.
import { createHistogram, type Histogram, type HistogramJson } from "./histogram.ts";

const counters = [
  "sessions",
  "disconnects",
  "refusedHellos",
  "offers",
  "accepted",
  "refused",
  "started",
  "succeeded",
  "failed",
  "cancelled",
  "interrupted",
  /** Given up by the host itself or by a verdict: stopped, not reported. */
  "abandoned",
  /** Ends that the control plane took, and ends whose fence was stale. */
  "applied",
  "stale",
  "repeatedCalls",
  "heartbeats",
  "coreMs",
  "gpuMs",
] as const;
export type Counter = (typeof counters)[number];
const histograms = ["rtt", "connect", "firstOffer", "acceptToStart", "complete"] as const;
export type Timing = (typeof histograms)[number];

export type MeterJson = {
  readonly counters: { readonly [C in Counter]: number };
  readonly histograms: { readonly [T in Timing]: HistogramJson };
  /** Now, not summed over time. */
  readonly open: number;
  readonly running: number;
};

export type Meter = {
  readonly count: (counter: Counter, by?: number) => void;
  readonly time: (timing: Timing, ms: number) => void;
  readonly value: (counter: Counter) => number;
  readonly histogram: (timing: Timing) => Histogram;
  /** A fresh start for the timings: a benchmark leaves its warm-up out. */
  readonly forgetTimings: () => void;
  readonly merge: (other: MeterJson) => void;
  readonly toJson: (now: { readonly open: number; readonly running: number }) => MeterJson;
};

export const createMeter = (): Meter => {
  const counts = Object.fromEntries(counters.map((c) => [c, 0])) as Record<Counter, number>;
  const times = new Map<Timing, Histogram>(histograms.map((t) => [t, createHistogram()]));
  const histogram = (timing: Timing) => times.get(timing) as Histogram;
  return {
    count: (counter, by = 1) => {
      counts[counter] += by;
    },
    time: (timing, ms) => histogram(timing).record(ms),
    value: (counter) => counts[counter],
    histogram,
    forgetTimings: () => {
      for (const timing of histograms) times.set(timing, createHistogram());
    },
    merge: (other) => {
      for (const counter of counters) counts[counter] += other.counters[counter];
      for (const timing of histograms) histogram(timing).merge(other.histograms[timing]);
    },
    toJson: (now) => ({
      counters: { ...counts },
      histograms: Object.fromEntries(histograms.map((t) => [t, histogram(t).toJson()])) as MeterJson["histograms"],
      ...now,
    }),
  };
};
