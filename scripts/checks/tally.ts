// What the closing line of scripts/test counts, from vitest's own report: nothing that went wrong can hide behind zero failed
// tests. A skipped test counts as a failure: a test that nobody runs proves nothing.

export type Tally = { readonly passed: number; readonly failed: number };

/** What is read of vitest's JSON report. */
export type Report = {
  readonly success: boolean;
  readonly numPassedTests: number;
  readonly numFailedTests: number;
  readonly numPendingTests: number;
  readonly numTodoTests: number;
  readonly testResults: readonly {
    readonly status: string;
    readonly assertionResults: readonly { status: string }[];
  }[];
};

/** A file that cannot be loaded has no failed test in it, and a stray error belongs to no test: both count as one failure. */
export const tallyOf = (report: Report): Tally => {
  const unloaded = report.testResults.filter(
    (file) => file.status === "failed" && file.assertionResults.every((a) => a.status !== "failed"),
  ).length;
  const failed = report.numFailedTests + report.numPendingTests + report.numTodoTests + unloaded;
  return { passed: report.numPassedTests, failed: failed === 0 && !report.success ? 1 : failed };
};
