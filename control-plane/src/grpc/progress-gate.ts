// Lets progress through at most so often for each attempt: the first at once, then the newest of what was held back when `flush`
// finds that its time has come. Live progress only; what is stored goes with the lease renewal.

export type ProgressGate<T> = {
  offer(key: string, value: T): void;
  flush(): void;
};

/** Attempts remembered at once; beyond it the oldest is forgotten, which only lets its next progress through earlier. */
const maxKeys = 10_000;

export const createProgressGate = <T>(options: {
  readonly intervalMs: number;
  readonly publish: (value: T) => void;
  readonly now?: () => number;
}): ProgressGate<T> => {
  const now = options.now ?? (() => performance.now());
  const lastAt = new Map<string, number>();
  const heldBack = new Map<string, T>();

  const publish = (key: string, value: T) => {
    heldBack.delete(key);
    lastAt.delete(key);
    lastAt.set(key, now());
    const oldest = lastAt.size > maxKeys ? lastAt.keys().next().value : undefined;
    if (oldest !== undefined) lastAt.delete(oldest);
    options.publish(value);
  };
  const isDue = (key: string) => now() - (lastAt.get(key) ?? Number.NEGATIVE_INFINITY) >= options.intervalMs;
  return {
    offer: (key, value) => {
      if (isDue(key)) publish(key, value);
      else heldBack.set(key, value);
    },
    flush: () => {
      for (const [key, value] of heldBack) if (isDue(key)) publish(key, value);
    },
  };
};
