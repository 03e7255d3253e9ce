// One case from its fleet to its result. The same for the long run, for the short tests and by hand, so a fault means one thing.
import { type Bed, openBed } from "./bed.ts";
import type { FaultCase, Result } from "./case.ts";

/** A case that hangs must not hold the suite: its fleet is stopped and it counts as failed. */
const caseMs = 240_000;

/** `open` holds the beds of now: whoever is interrupted stops them, or their processes would outlive this one. */
export const runCase = async (fault: FaultCase, open = new Set<Bed>()): Promise<Result> => {
  const { faults, injected } = fault;
  const none = { faults, injected, measured: undefined, jobs: 0, jobsLost: 0, appliedTwice: 0, broken: [] };
  const skipped = await fault.unable?.();
  if (skipped !== undefined) return { ...none, tookMs: 0, skipped };
  const began = performance.now();
  const bed = await openBed(fault.fleet);
  open.add(bed);
  try {
    const measured = await within(fault.limitMs ?? caseMs, fault.run(bed));
    const verdict = await bed.verdict(fault.allowed ?? ["completed"]);
    const late = lateBy(fault, measured.detectMs, measured.recoverMs);
    return {
      ...none,
      measured,
      ...verdict,
      tookMs: performance.now() - began,
      ...(late === undefined ? {} : { error: late }),
    };
  } catch (error) {
    const text = error instanceof Error ? `${error.message}${error.cause ? ` (${error.cause})` : ""}` : String(error);
    return { ...none, tookMs: performance.now() - began, error: `${text}\n${lastWords(bed)}` };
  } finally {
    await bed.stop();
    open.delete(bed);
  }
};

/** Nothing lost, nothing twice, nothing broken, in time. */
export const isGood = (result: Result): boolean =>
  result.error === undefined && result.jobsLost === 0 && result.appliedTwice === 0 && result.broken.length === 0;

const lateBy = (fault: FaultCase, detectMs: number | null, recoverMs: number | null): string | undefined => {
  const { within: limits = {} } = fault;
  if (limits.detectMs !== undefined && (detectMs ?? 0) > limits.detectMs)
    return `detected after ${Math.round(detectMs ?? 0)} ms, the limit is ${limits.detectMs} ms`;
  if (limits.recoverMs !== undefined && (recoverMs ?? 0) > limits.recoverMs)
    return `recovered after ${Math.round(recoverMs ?? 0)} ms, the limit is ${limits.recoverMs} ms`;
  return undefined;
};

const lastWords = (bed: Bed): string =>
  bed.fleet.replicas
    .map((replica) => `${replica.name}: ${bed.fleet.said(replica.name).slice(-600)}`)
    .join("\n")
    .trim();

const within = async <T>(limitMs: number, act: Promise<T>): Promise<T> => {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`the case was not over within ${limitMs / 1000} s`)), limitMs);
  });
  try {
    return await Promise.race([act, late]);
  } finally {
    clearTimeout(timer);
  }
};
