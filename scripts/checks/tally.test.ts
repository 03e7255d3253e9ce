// The closing line of a test run counts what a person would count: nothing that went wrong can hide behind zero failed tests.
import { describe, expect, test } from "vitest";
import { tallyOf } from "./tally.ts";

const report = (more: Partial<Parameters<typeof tallyOf>[0]> = {}) => ({
  success: true,
  numPassedTests: 3,
  numFailedTests: 0,
  numPendingTests: 0,
  numTodoTests: 0,
  testResults: [{ status: "passed", assertionResults: [{ status: "passed" }] }],
  ...more,
});

describe("the closing line", () => {
  test.each([
    ["all well", report(), { passed: 3, failed: 0 }],
    ["a failed test", report({ success: false, numFailedTests: 1 }), { passed: 3, failed: 1 }],
    ["a skipped and an empty test", report({ numPendingTests: 1, numTodoTests: 1 }), { passed: 3, failed: 2 }],
    [
      "a file that cannot be loaded",
      report({ success: false, testResults: [{ status: "failed", assertionResults: [] }] }),
      { passed: 3, failed: 1 },
    ],
    ["a stray error that belongs to no test", report({ success: false }), { passed: 3, failed: 1 }],
  ])("%s", (_, given, tally) => {
    expect(tallyOf(given)).toEqual(tally);
  });
});
