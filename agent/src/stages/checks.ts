// What a quality check is and what a set of them means: all must hold, and the first sentence of a failure is the figure and its bound.
// Pure; validate and validate_ladder fill in the figures.
import { StageFailure } from "../work/contract.ts";

export type Check = {
  /** snake_case, stable: dashboards and callers read it. */
  readonly name: string;
  readonly ok: boolean;
  /** The figure with its unit, e.g. "3.2 s". */
  readonly value: string;
  /** What was allowed, e.g. "at most 2.0 s". */
  readonly bound: string;
};

export type QualityResult = { readonly quality_score: number; readonly issues: string[]; readonly checks: Check[] };

/** Throws quality_failed unless every check holds; the evidence lists all of them. */
export const requireAll = (checks: readonly Check[], what: string): QualityResult => {
  const failed = checks.filter((check) => !check.ok);
  if (failed.length === 0) return { quality_score: 1, issues: [], checks: [...checks] };
  const sentences = failed.map((check) => `${check.name} is ${check.value}, expected ${check.bound}`);
  throw new StageFailure(
    "quality_failed",
    `${what} did not pass ${failed.length} of ${checks.length} checks: ${sentences.join("; ")}.`,
    {
      evidence: JSON.stringify({ quality_score: scoreOf(checks), issues: failed.map((check) => check.name), checks }),
    },
  );
};

/** Share of checks that hold, two digits. */
export const scoreOf = (checks: readonly Check[]): number =>
  checks.length === 0 ? 0 : Math.round((100 * checks.filter((check) => check.ok).length) / checks.length) / 100;

export const same = (name: string, value: string | number, expected: string | number): Check => ({
  name,
  ok: value === expected,
  value: String(value) || "missing",
  bound: String(expected),
});

export const atMost = (name: string, value: number, most: number, unit: string, digits = 2): Check => ({
  name,
  ok: value <= most,
  value: `${value.toFixed(digits)} ${unit}`,
  bound: `at most ${most.toFixed(digits)} ${unit}`,
});

export const atLeast = (name: string, value: number, least: number, unit: string, digits = 2): Check => ({
  name,
  ok: value >= least,
  value: `${value.toFixed(digits)} ${unit}`,
  bound: `at least ${least.toFixed(digits)} ${unit}`,
});

export const within = (
  name: string,
  value: number,
  target: number,
  tolerance: number,
  unit: string,
  digits = 2,
): Check => ({
  name,
  ok: Math.abs(value - target) <= tolerance + 1e-9,
  value: `${value.toFixed(digits)} ${unit}`,
  bound: `${target.toFixed(digits)} ± ${tolerance.toFixed(digits)} ${unit}`,
});

export const holds = (name: string, ok: boolean, value: string, bound: string): Check => ({ name, ok, value, bound });
