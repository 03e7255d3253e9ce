// Gathers calls that come while the last ones are still being served and serves them together. Nothing waits when nothing runs, so an
// idle process answers at once and a busy one does more in each step: the batch grows with the load.

/**
 * `act` gets at most `max` items and answers one result each, in their order. When it throws for several, each is tried by itself,
 * so that one bad item does not fail its neighbours; `isShared` names the errors for which that would be useless (the database is away).
 */
export const gather = <I, O>(options: {
  readonly max: number;
  readonly act: (items: readonly I[]) => Promise<readonly O[]>;
  readonly isShared: (error: unknown) => boolean;
}): ((item: I) => Promise<O>) => {
  type Waiting = { readonly item: I; readonly resolve: (result: O) => void; readonly reject: (error: unknown) => void };
  let waiting: Waiting[] = [];
  let isServing = false;

  const serve = async (batch: readonly Waiting[]): Promise<void> => {
    try {
      const results = await options.act(batch.map((w) => w.item));
      if (results.length !== batch.length) throw new Error(`${results.length} results for ${batch.length} items`);
      for (const [i, w] of batch.entries()) w.resolve(results[i] as O);
    } catch (error) {
      if (batch.length === 1 || options.isShared(error)) for (const w of batch) w.reject(error);
      else for (const w of batch) await serve([w]);
    }
  };
  const run = async (): Promise<void> => {
    while (waiting.length > 0) {
      const batch = waiting.slice(0, options.max);
      waiting = waiting.slice(options.max);
      await serve(batch);
    }
    isServing = false;
  };
  return (item) =>
    new Promise<O>((resolve, reject) => {
      waiting.push({ item, resolve, reject });
      if (isServing) return;
      isServing = true;
      // What arrives in the same turn of the event loop (the messages of one batch) is served together.
      setImmediate(() => void run());
    });
};
