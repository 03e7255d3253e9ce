// Runs one act for every item, at most `limit` at a time, results in the order of the items. Used for steps of one stage.
// After the first failure nothing new begins, and the failure is thrown when everything that ran has ended: a stage must
// not end while a process of it still writes.

export const inParallel = async <Item, Result>(
  items: readonly Item[],
  limit: number,
  act: (item: Item, index: number) => Promise<Result>,
): Promise<Result[]> => {
  const results: Result[] = new Array(items.length);
  let failed: { readonly error: unknown } | undefined;
  let next = 0;
  const lane = async (): Promise<void> => {
    while (next < items.length && failed === undefined) {
      const index = next++;
      try {
        results[index] = await act(items[index] as Item, index);
      } catch (error) {
        failed ??= { error };
      }
    }
  };
  await Promise.all(Array.from({ length: Math.max(1, Math.min(limit, items.length)) }, lane));
  if (failed) throw failed.error;
  return results;
};
