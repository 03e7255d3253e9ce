// Calls that wait are served together, each with its own answer and its own error.
import { expect, test } from "vitest";
import { gather } from "./gather.ts";

const doubler = (max = 10, isBad = (n: number) => n < 0) => {
  const batches: number[][] = [];
  let open = () => {};
  const gate = new Promise<void>((resolve) => {
    open = resolve;
  });
  const call = gather<number, number>({
    max,
    act: async (items) => {
      batches.push([...items]);
      await gate;
      if (items.some(isBad)) throw new Error(items.includes(-1) ? "away" : "bad");
      return items.map((n) => n * 2);
    },
    isShared: (error) => (error as Error).message === "away",
  });
  return { batches, open, call };
};

test("what comes while a batch is served is the next batch, cut at the most", async () => {
  const { batches, open, call } = doubler(3);
  const first = [call(1), call(2)];
  await new Promise((resolve) => setImmediate(resolve));
  const later = [3, 4, 5, 6].map(call);
  open();
  expect(await Promise.all([...first, ...later])).toEqual([2, 4, 6, 8, 10, 12]);
  expect(batches).toEqual([[1, 2], [3, 4, 5], [6]]);
});

test("a bad item fails alone; an error that all share fails all at once", async () => {
  const { batches, open, call } = doubler();
  open();
  const some = await Promise.allSettled([call(1), call(-2), call(3)]);
  expect(some.map((s) => s.status)).toEqual(["fulfilled", "rejected", "fulfilled"]);
  expect(batches.length).toBe(4);
  const all = await Promise.allSettled([call(1), call(-1)]);
  expect(all.map((s) => s.status)).toEqual(["rejected", "rejected"]);
  expect(batches.length).toBe(5);
});

test("an act that loses an answer fails the calls instead of leaving them open", async () => {
  const call = gather<number, number>({ max: 2, act: async () => [], isShared: () => false });
  await expect(call(1)).rejects.toThrow("0 results for 1 items");
});
