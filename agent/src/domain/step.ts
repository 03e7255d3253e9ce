// What a durable step is and how it can end: the words that machine/ (which runs it) and work/ (which asks for it) share.
// A step is one program in a folder of its own, supervised by a shim, so that agents may come and go while it runs.
// Types only; the folder's files are described in machine/process.ts.

export type StepSpec = {
  /** The step's folder, absolute; its parent exists. */
  readonly dir: string;
  readonly cwd: string;
  /** Absolute path of the program, then its arguments. */
  readonly command: readonly string[];
  readonly stdin: string;
  /** The attempt's folder: found in the environment of everything that the step starts. */
  readonly marker: string;
  readonly env: { readonly [name: string]: string };
  /** Its content changes at every renewal; the shim ends the program when it stays the same for leaseLimitMs. */
  readonly leaseFile: string;
  readonly leaseLimitMs: number;
  readonly runtimeMs: number;
  readonly killAfterMs: number;
  readonly stallMs: number;
};

export type StepExit = {
  readonly exitCode: number | null;
  readonly signal: string | null;
  readonly elapsedMs: number;
  /** "lease" or "runtime" when the shim's dead-man switch ended it. */
  readonly endedBy: "" | "lease" | "runtime";
};

export type StepOutcome =
  | { readonly kind: "ended"; readonly exit: StepExit }
  | { readonly kind: "stopped" }
  | { readonly kind: "stalled"; readonly quietMs: number }
  | { readonly kind: "flooded"; readonly bytes: number }
  /** The shim is gone without an exit status: killed from outside, or it could not write. */
  | { readonly kind: "lost" }
  | { readonly kind: "detached" };

export type StepSignals = {
  /** Ends the program, then answers "stopped". */
  readonly stop: AbortSignal;
  /** Looks away and answers "detached": the program goes on under its shim. */
  readonly detach: AbortSignal;
  /** Called about every samplePeriodMs while it runs and once at its end. */
  readonly onSample?: () => void;
};
