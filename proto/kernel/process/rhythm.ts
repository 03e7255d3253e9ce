// A rhythm: one act done again and again, at most one at a time, woken early by a bell. The base of every loop.
// An error of one turn is reported and the rhythm goes on after a pause; a bug that throws outside a turn ends the process.

export type Rhythm = {
  readonly name: string;
  start(): Promise<void>;
  stop(): Promise<void>;
  /** Wakes the loop now. Bells that ring during a turn cause exactly one more turn. */
  ring(): void;
  /** One turn, for tests and for start-up; never overlaps with the loop's own turn. */
  runOnce(): Promise<void>;
};

/** `turn` may answer a number: how soon it wants to be called again (ms). Anything else means the period. */
export const rhythm = (options: {
  readonly name: string;
  readonly periodMs: number;
  readonly turn: (signal: AbortSignal) => Promise<unknown>;
  readonly onError: (error: unknown) => void;
  /** A bell starts a turn after this (ms), with every other bell of the meantime. Default 0: at once. */
  readonly gatherMs?: number;
  /** Pause after a failed turn. */
  readonly errorPauseMs?: number;
}): Rhythm => {
  const abort = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  let running: Promise<void> | undefined;
  let rung = false;
  let isStarted = false;

  const schedule = (ms: number) => {
    clearTimeout(timer);
    if (!isStarted || abort.signal.aborted) return;
    timer = setTimeout(() => void go(), ms);
  };
  /** The first bell sets the time; later ones do not push it back. */
  let gathering = false;
  const gather = () => {
    if (gathering) return;
    gathering = (options.gatherMs ?? 0) > 0;
    schedule(options.gatherMs ?? 0);
  };
  const go = (): Promise<void> => {
    if (running) {
      rung = true;
      return running;
    }
    clearTimeout(timer);
    gathering = false;
    rung = false;
    running = (async () => {
      let wait = options.periodMs;
      try {
        const asked = await options.turn(abort.signal);
        wait = typeof asked === "number" ? asked : options.periodMs;
      } catch (error) {
        if (!abort.signal.aborted) options.onError(error);
        wait = options.errorPauseMs ?? Math.max(1000, options.periodMs);
      } finally {
        running = undefined;
        schedule(rung ? (options.gatherMs ?? 0) : wait);
      }
    })();
    return running;
  };
  return {
    name: options.name,
    start: async () => {
      if (isStarted) return;
      isStarted = true;
      schedule(0);
    },
    stop: async () => {
      abort.abort();
      clearTimeout(timer);
      await running;
    },
    ring: () => {
      if (running) rung = true;
      else gather();
    },
    runOnce: async () => {
      await running;
      await go();
    },
  };
};
