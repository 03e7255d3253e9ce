// Order, the limit, and the promise that nothing of a failed stage still runs.
import { expect, test } from "vitest";
import { inParallel } from "./in-parallel.ts";

test("results have the order of the items and the limit holds", async () => {
  let running = 0;
  let most = 0;
  const results = await inParallel([3, 1, 2, 5, 4], 2, async (item, index) => {
    most = Math.max(most, ++running);
    for (let turn = 0; turn < item; turn++) await Promise.resolve();
    running -= 1;
    return item * 10 + index;
  });
  expect(results).toEqual([30, 11, 22, 53, 44]);
  expect(most).toBe(2);
});

test("nothing, and a limit below one", async () => {
  expect(await inParallel([], 4, async () => 1)).toEqual([]);
  expect(await inParallel([7], 0, async (item) => item)).toEqual([7]);
});

test("the first failure is thrown when all that ran has ended, and nothing new begins", async () => {
  const ended: number[] = [];
  const begun: number[] = [];
  const other = Promise.withResolvers<void>();
  const run = inParallel([0, 1, 2, 3], 2, async (item) => {
    begun.push(item);
    if (item === 0) throw new Error("first");
    await other.promise;
    ended.push(item);
  });
  setImmediate(() => other.resolve());
  await expect(run).rejects.toThrow("first");
  expect(begun).toEqual([0, 1]);
  expect(ended).toEqual([1]);
});
