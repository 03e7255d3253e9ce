// Reads the key=value blocks of FFmpeg's -progress and says how far one run is, how fast, and how long it still takes.
// Pure: text (and, when the caller has one, a clock reading) in, numbers out. The caller owns the file and the weights of steps.
// The fraction never falls and never claims success: FFmpeg prints progress=end on failure too, so only its caller says "done".

export type ProgressUpdate = {
  /** 0..1 of the planned output; 0 while the plan is unknown. */
  readonly fraction: number;
  /** Seconds of output for each second of wall time, smoothed; 0 until two blocks were seen. */
  readonly speed: number;
  readonly etaMs: number | undefined;
};

/** -stats_period of the runner: the time between blocks when the caller has no clock (a file that is read at once). */
export const statsPeriodMs = 500;
/** Time constant of the smoothed speed. FFmpeg's own `speed` averages since the start and lags behind for minutes. */
const smoothingMs = 10_000;
/** A line of -progress has under 60 characters; a longer one is no progress line, and its text is dropped. */
const maxLineLength = 4096;
/** Readings closer than this say nothing about speed; the quotient of two tiny numbers is any number. */
const leastElapsedMs = 1;
/** 31 years of output in microseconds; more digits are no time. */
const timePattern = /^-?\d{1,15}$/;

/**
 * `push` takes any piece of the progress file, cut anywhere, and answers when it completed at least one block.
 * `nowMs` is a monotonic reading of the moment when the piece was read; without it blocks count as one period apart.
 */
export const createProgressReader = (
  totalMs?: number,
): { push(chunk: string, nowMs?: number): ProgressUpdate | undefined } => {
  let rest = "";
  let outMs = 0;
  let pendingMs: number | undefined;
  let speed: number | undefined;
  let last: { readonly outMs: number; readonly atMs: number } | undefined;
  let fraction = 0;

  /** Returns true at the line that ends a block. */
  const readLine = (line: string): boolean => {
    const cut = line.indexOf("=");
    if (cut < 0) return false;
    const value = line.slice(cut + 1).trim();
    const key = line.slice(0, cut).trim();
    // Microseconds; out_time_ms is microseconds as well in every version. N/A at the start, negative after a seek past the end.
    if (key === "out_time_us") pendingMs = timePattern.test(value) ? Math.max(0, Number(value) / 1000) : undefined;
    return key === "progress";
  };

  const endBlock = (atMs: number) => {
    outMs = Math.max(outMs, pendingMs ?? outMs);
    pendingMs = undefined;
    if (totalMs !== undefined && totalMs > 0) fraction = Math.max(fraction, Math.min(1, outMs / totalMs));
    const elapsed = last === undefined ? 0 : atMs - last.atMs;
    if (last !== undefined && elapsed >= leastElapsedMs) {
      const sample = (outMs - last.outMs) / elapsed;
      const weight = 1 - Math.exp(-elapsed / smoothingMs);
      speed = speed === undefined ? sample : speed + weight * (sample - speed);
    }
    if (last === undefined || elapsed >= leastElapsedMs) last = { outMs, atMs };
  };

  return {
    push: (chunk, nowMs) => {
      const lines = (rest + chunk).split("\n");
      rest = lines.pop() ?? "";
      if (rest.length > maxLineLength) rest = "";
      const blocks = lines.filter((line) => line.trimStart().startsWith("progress=")).length;
      if (blocks === 0) {
        for (const line of lines) readLine(line);
        return undefined;
      }
      const from = last?.atMs ?? (nowMs === undefined ? 0 : nowMs - blocks * statsPeriodMs);
      const period = nowMs === undefined ? statsPeriodMs : Math.max(0, nowMs - from) / blocks;
      let ended = 0;
      for (const line of lines) {
        if (readLine(line)) {
          ended += 1;
          endBlock(from + ended * period);
        }
      }
      const left = totalMs === undefined ? undefined : Math.max(0, totalMs - outMs);
      return {
        fraction,
        speed: speed ?? 0,
        etaMs: left !== undefined && speed !== undefined && speed > 0 ? left / speed : undefined,
      };
    },
  };
};
