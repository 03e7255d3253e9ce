// How anything with a lifetime starts and stops: both idempotent, started in order, stopped in reverse under one deadline.
// The composition roots own the order; a part that fails to start stops what was started before it.

export type Lifetime = {
  readonly name: string;
  start(): Promise<void>;
  stop(): Promise<void>;
  /** The most of the common deadline that its stop may take, so that a part that hangs leaves time for those after it. */
  readonly stopMs?: number;
};

/** Parts that need no order among themselves: started one after the other, stopped at the same time. */
export const together = (name: string, parts: readonly Lifetime[], stopMs: number): Lifetime => ({
  name,
  stopMs,
  start: () => startAll(parts),
  stop: async () => {
    const ended = await Promise.allSettled(parts.map((part) => part.stop()));
    const failed = ended.filter((end) => end.status === "rejected").map((end) => end.reason);
    if (failed.length > 0) throw new AggregateError(failed, `${failed.length} of ${name} did not stop in order`);
  },
});

/** Starts in order; when one throws, stops the started ones in reverse and rethrows. */
export const startAll = async (parts: readonly Lifetime[]): Promise<void> => {
  const started: Lifetime[] = [];
  for (const part of parts) {
    try {
      await part.start();
      started.push(part);
    } catch (error) {
      await stopAll(started, 5_000, () => {});
      throw error;
    }
  }
};

/** Stops in reverse. Each part gets what is left of the deadline, or its own limit; a part that is late or throws is reported and passed over. */
export const stopAll = async (
  parts: readonly Lifetime[],
  deadlineMs: number,
  report: (name: string, error: unknown) => void,
): Promise<void> => {
  const end = performance.now() + deadlineMs;
  for (const part of [...parts].reverse()) {
    const left = Math.max(50, Math.min(part.stopMs ?? Number.POSITIVE_INFINITY, end - performance.now()));
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error(`did not stop in ${Math.round(left)} ms`)), left);
    });
    try {
      await Promise.race([part.stop(), late]);
    } catch (error) {
      report(part.name, error);
    } finally {
      clearTimeout(timer);
    }
  }
};

/** Resolves at the first SIGINT or SIGTERM; a second one exits at once with 128 + signal. */
export const untilSignal = (): Promise<NodeJS.Signals> =>
  new Promise((resolve) => {
    let seen = false;
    for (const signal of ["SIGINT", "SIGTERM"] as const) {
      process.on(signal, () => {
        if (seen) process.exit(signal === "SIGINT" ? 130 : 143);
        seen = true;
        resolve(signal);
      });
    }
  });
