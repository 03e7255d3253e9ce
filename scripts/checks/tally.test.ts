// One command tests the whole: the build machine calls the same script as a person, and its closing line counts what a person
// would count, so nothing that went wrong can hide behind zero failed tests.
import { spawnSync } from "node:child_process";
import { chmod, copyFile, mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { repositoryRoot } from "./repository.ts";
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

describe("[S282] one command tests the whole", () => {
  test("the build machine runs scripts/test with its arguments and ends with its exit code, from any folder", async () => {
    const folder = await mkdtemp(join(tmpdir(), "renderplane-ci-"));
    try {
      await mkdir(join(folder, ".ci"));
      await mkdir(join(folder, "scripts"));
      await copyFile(join(repositoryRoot(), ".ci/run"), join(folder, ".ci/run"));
      await writeFile(join(folder, "scripts/test"), '#!/bin/sh\necho "$# $1"\nexit 7\n');
      await chmod(join(folder, "scripts/test"), 0o755);
      const end = spawnSync(join(folder, ".ci/run"), ["a b", "c"], { cwd: "/", encoding: "utf8" });
      expect([end.status, end.stdout]).toEqual([7, "2 a b\n"]);
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });

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
  ])("the closing line: %s", (_, given, tally) => {
    expect(tallyOf(given)).toEqual(tally);
  });
});
