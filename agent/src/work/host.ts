// What work/ needs from the machine that it runs on; agent.ts fills it from machine/, tests may put a full disk in its place.
// Times are milliseconds of the monotonic clock that all processes of one boot share, so they outlive the agent.
import type { StepOutcome, StepSignals, StepSpec } from "../domain/step.ts";

export type Disk = {
  /** Whole and on the platter, or not at all. Throws the system's error (ENOSPC, EDQUOT, …); the old content stays then. */
  writeDurable(path: string, text: string): void;
  syncFolder(folder: string): void;
  freeBytes(folder: string): Promise<number>;
};

export type Host = {
  readonly bootId: string;
  nowMs(): number;
  readonly disk: Disk;
  /** Starts, adopts or answers: the step's folder decides. */
  runStep(spec: StepSpec, signals: StepSignals): Promise<StepOutcome>;
  /** Kills every process that carries this attempt's marker, wherever it went; answers how many. */
  endMarked(attemptRoot: string): Promise<number>;
  /** Kills processes marked with a folder under this root that is not known; answers with their folders. */
  endStrangers(attemptsRoot: string, known: ReadonlySet<string>): string[];
};
