// A binary heap: the earliest event of a model, or the first of a queue. Equal keys come out in the order in which they went in, so
// that a run repeats. Keys lie in arrays of numbers of their own: with objects a day of a large fleet took three times as long.

export type Heap<T> = {
  readonly push: (key: number, item: T) => void;
  /** The item with the smallest key; undefined: empty. */
  readonly pop: () => T | undefined;
  readonly peek: () => T | undefined;
  /** Infinity: empty. */
  readonly least: () => number;
  readonly size: () => number;
};

export const createHeap = <T>(): Heap<T> => {
  const keys: number[] = [];
  const orders: number[] = [];
  const items: T[] = [];
  let pushed = 0;
  const set = (i: number, key: number, order: number, item: T) => {
    keys[i] = key;
    orders[i] = order;
    items[i] = item;
  };
  const isBefore = (key: number, order: number, i: number) => {
    const other = keys[i] as number;
    return key < other || (key === other && order < (orders[i] as number));
  };
  return {
    push: (key, item) => {
      const order = pushed++;
      let i = keys.length;
      // The hole rises until the new one may stand in it.
      for (;;) {
        const parent = (i - 1) >> 1;
        if (i === 0 || !isBefore(key, order, parent)) break;
        set(i, keys[parent] as number, orders[parent] as number, items[parent] as T);
        i = parent;
      }
      set(i, key, order, item);
    },
    pop: () => {
      const first = items[0];
      const key = keys.pop();
      const order = orders.pop();
      const item = items.pop();
      if (key === undefined || order === undefined || keys.length === 0) return first;
      const size = keys.length;
      let i = 0;
      for (;;) {
        let child = 2 * i + 1;
        if (child >= size) break;
        const right = child + 1;
        if (right < size && isBefore(keys[right] as number, orders[right] as number, child)) child = right;
        if (isBefore(key, order, child)) break;
        set(i, keys[child] as number, orders[child] as number, items[child] as T);
        i = child;
      }
      set(i, key, order, item as T);
      return first;
    },
    peek: () => items[0],
    least: () => keys[0] ?? Number.POSITIVE_INFINITY,
    size: () => keys.length,
  };
};
