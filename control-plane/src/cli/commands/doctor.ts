// renderplane doctor: is everything here that a render needs? Prints one line a check (✓ ! ✗), the value that was measured and
// the fix. Changes nothing. Exit 8 when a check failed; a warning alone is exit 0.

import { hereChecks } from "../doctor/here.ts";
import { serverChecks } from "../doctor/server.ts";
import { type ExitCode, exitCodes } from "../failure.ts";
import type { Session } from "./session.ts";

export type Finding = {
  readonly check: string;
  readonly verdict: "ok" | "warning" | "failed";
  /** What was measured or found. */
  readonly value: string;
  /** What to do; "" when all is well. */
  readonly fix: string;
};

const marks = { ok: ["green", "✓"], warning: ["yellow", "!"], failed: ["red", "✗"] } as const;

export const runDoctor = async (session: Session): Promise<ExitCode> => {
  const { output } = session;
  const findings = (await Promise.all([serverChecks(session.client), hereChecks(session.env)])).flat();
  const isDegraded = findings.some((finding) => finding.verdict === "failed");
  if (!output.json(findings)) {
    const width = Math.max(...findings.map((finding) => finding.check.length));
    for (const { check, verdict, value, fix } of findings) {
      const [color, mark] = marks[verdict];
      output.result(`${output.paint(color, mark)} ${check.padEnd(width)}  ${value}`);
      if (fix !== "") output.result(`  ${"".padEnd(width)}  → ${fix}`);
    }
    const failed = findings.filter((finding) => finding.verdict === "failed").length;
    output.note(failed === 0 ? "All good." : `${failed} of ${findings.length} checks failed.`);
  }
  return isDegraded ? exitCodes.degraded : exitCodes.ok;
};
