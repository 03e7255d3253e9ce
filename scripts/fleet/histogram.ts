// Counts of durations in buckets that grow by two percent: millions of values in a few kilobytes, merged over processes by
// adding. A percentile is right to one percent of its value; that is the price, and it is below what any run repeats.

/** Milliseconds; smaller values count as this one. */
const least = 0.01;
const growth = 1.02;
const step = Math.log(growth);
/** Above this (about 40 hours in milliseconds) values count as the last bucket's. */
const buckets = 1200;

export type HistogramJson = {
  readonly count: number;
  readonly sum: number;
  readonly max: number;
  /** Pairs of bucket and count, empty ones left out. */
  readonly buckets: readonly (readonly [number, number])[];
};

export type Histogram = {
  readonly record: (value: number) => void;
  readonly merge: (other: HistogramJson) => void;
  readonly count: () => number;
  readonly mean: () => number;
  readonly max: () => number;
  /** The value below which `share` (0..1) lie; 0 when nothing was recorded. */
  readonly percentile: (share: number) => number;
  readonly toJson: () => HistogramJson;
};

export const createHistogram = (): Histogram => {
  const counts = new Float64Array(buckets);
  let count = 0;
  let sum = 0;
  let max = 0;
  const bucketOf = (value: number) =>
    Math.min(buckets - 1, Math.max(0, Math.round(Math.log(Math.max(value, least) / least) / step)));
  return {
    record: (value) => {
      if (!Number.isFinite(value)) return;
      const bucket = bucketOf(value);
      counts[bucket] = (counts[bucket] ?? 0) + 1;
      count++;
      sum += value;
      max = Math.max(max, value);
    },
    merge: (other) => {
      for (const [bucket, n] of other.buckets) counts[bucket] = (counts[bucket] ?? 0) + n;
      count += other.count;
      sum += other.sum;
      max = Math.max(max, other.max);
    },
    count: () => count,
    mean: () => (count === 0 ? 0 : sum / count),
    max: () => max,
    percentile: (share) => {
      let left = Math.max(1, Math.ceil(count * share));
      for (let bucket = 0; bucket < buckets; bucket++) {
        left -= counts[bucket] ?? 0;
        if (left <= 0 && count > 0) return Math.min(max, least * growth ** bucket);
      }
      return 0;
    },
    toJson: () => {
      const filled: [number, number][] = [];
      for (let bucket = 0; bucket < buckets; bucket++) {
        const n = counts[bucket] ?? 0;
        if (n > 0) filled.push([bucket, n]);
      }
      return { count, sum, max, buckets: filled };
    },
  };
};

/** What people read of it, rounded. */
export const quantiles = (h: Histogram) => {
  const round = (x: number) => Math.round(x * 100) / 100;
  return {
    count: h.count(),
    mean: round(h.mean()),
    p50: round(h.percentile(0.5)),
    p95: round(h.percentile(0.95)),
    p99: round(h.percentile(0.99)),
    max: round(h.max()),
  };
};
export type Quantiles = ReturnType<typeof quantiles>;
