// What runs at this moment, counted for the gates: jobs that have begun and not ended, and live attempts by provider. Types only;
// one statement fills it (store/queue.ts).
export type ConcurrencyCounts = {
  readonly jobs: number;
  readonly byUser: ReadonlyMap<string, number>;
  readonly byPipeline: ReadonlyMap<string, number>;
  /** Only for the providers that were asked for. */
  readonly byProvider: ReadonlyMap<string, number>;
  /** Jobs whose first stage is offered and not accepted yet: they count, and their row does not say so. */
  readonly offeredJobs: ReadonlySet<string>;
};
