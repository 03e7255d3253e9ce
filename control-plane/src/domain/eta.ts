// When a job will begin and end, as a range: from what the last jobs of its lane took, or from the pipeline's target when there are
// none (and it says so). A range and not a figure, because the queue moves by priorities and hosts come and go. Pure.
//
// What waits while others run tells what the fleet can carry: the narrow end of the range takes as many jobs side by side as run
// now, the wide end as many as the limit allows. Jobs ahead are taken to be like this one.

export type Range = { readonly low: number; readonly high: number };
export type Durations = Range & { readonly mid: number; readonly basis: "history" | "target" };
export type TimeRange = { readonly earliest: Date; readonly latest: Date };
export type Outlook = {
  readonly start: TimeRange | null;
  readonly finish: TimeRange | null;
  readonly basis: "history" | "target";
};

/** A target is one figure: half of it to all of it is what a pipeline promises before anything is known. */
export const durationsOf = (
  history: { readonly seconds: Range & { readonly mid: number } } | undefined,
  targetSeconds: number,
): Durations =>
  history
    ? { ...history.seconds, basis: "history" }
    : { low: targetSeconds / 2, mid: targetSeconds, high: targetSeconds, basis: "target" };

export type QueueFacts = {
  /** Jobs before it. */
  readonly ahead: number;
  readonly processing: number;
  /** Jobs that may be in work at once. */
  readonly limit: number;
};

/** Seconds until it begins. */
export const waitOf = ({ ahead, processing, limit }: QueueFacts, d: Durations): Range => {
  const inFront = ahead + processing;
  const least = Math.max(0, inFront + 1 - limit);
  const slots = Math.max(1, Math.min(limit, processing));
  return {
    low: (least / limit) * d.low,
    high: inFront === 0 ? 0 : Math.max(1, (ahead + 1) / slots) * d.high,
  };
};

export const outlookOf = (
  job: {
    readonly state: "queued" | "processing";
    readonly startedAt: Date | null;
    readonly notBefore: Date | null;
  },
  queue: QueueFacts,
  d: Durations,
  now: Date,
): Outlook => {
  const at = (ms: number, seconds: number) => new Date(Math.round(ms + seconds * 1000));
  if (job.state === "processing") {
    const began = job.startedAt ?? now;
    const [low, high] = [d.low, d.high].map((s) => Math.max(now.getTime(), began.getTime() + s * 1000)) as [
      number,
      number,
    ];
    return { start: null, finish: { earliest: new Date(low), latest: new Date(high) }, basis: d.basis };
  }
  const wait = waitOf(queue, d);
  const from = Math.max(now.getTime(), job.notBefore?.getTime() ?? 0);
  const earliest = Math.max(from, now.getTime() + wait.low * 1000);
  const latest = Math.max(from, now.getTime() + wait.high * 1000);
  return {
    start: { earliest: new Date(earliest), latest: new Date(latest) },
    finish: { earliest: at(earliest, d.low), latest: at(latest, d.high) },
    basis: d.basis,
  };
};
