// docs/faults.md from results: what was done, when it was known, when it was mended, and what must be 0. Numbers come from the run
// that wrote the page; what is not covered, and why, stands below the table.
import { cpus, totalmem } from "node:os";
import { heartbeatMs, type Result } from "./case.ts";
import { notCovered } from "./matrix.ts";

export const faultsPage = (results: readonly Result[], tookMs: number): string => {
  const date = new Date().toISOString().slice(0, 10);
  const machine = `${cpus().length} cores (${cpus()[0]?.model.trim() ?? "unknown"}), ${Math.round(totalmem() / 1024 ** 3)} GiB, Node ${process.versions.node}`;
  return `<!-- Written by npm run test:faults; do not edit. -->
# Faults

Every fault is done to a real fleet: processes, sockets, PostgreSQL, Redis and FFmpeg of this machine. Afterwards one checker reads the
database, the folders of the agents, their processes and the event log. Jobs lost and effects applied twice must be 0.

Command: \`npm run test:faults\` · ${date} · ${machine} · ${Math.round(tookMs / 60_000)} min · heartbeat ${heartbeatMs / 1000} s, so the
lease is ${(heartbeatMs * 6) / 1000} s and a host is lost after ${(heartbeatMs * 12) / 1000} s. At the default of 5 s multiply what depends on a window by ${Math.round(5000 / heartbeatMs)}.

| fault | injected | known after | mended after | jobs | lost | twice | invariants | |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
${results.map(rowOf).join("\n")}

Known: somebody knew of it (a closed session, an attempt ended, a refusal). Mended: from the fault until the work ran again or was done.
Twice: stages completed, money settled or programs started more than once for one attempt.

## Not covered

${notCovered.map(({ faults, why }) => `- ${faults}: ${why}`).join("\n")}
`;
};

/** For a terminal. */
export const lineOf = (r: Result): string =>
  r.skipped !== undefined
    ? `${r.faults.join(" ")} ${r.injected}: left out, ${r.skipped}`
    : `${r.faults.join(" ")} ${r.injected}: known ${ms(r.measured?.detectMs)}, mended ${ms(r.measured?.recoverMs)}, ${r.jobs} jobs, lost ${r.jobsLost}, twice ${r.appliedTwice}, broken ${r.broken.length}, ${Math.round(r.tookMs / 1000)} s${r.measured?.note ? ` (${r.measured.note})` : ""}`;

const rowOf = (r: Result): string => {
  const cells =
    r.skipped !== undefined
      ? ["", "", "", "", "", "", `left out: ${r.skipped}`]
      : [
          ms(r.measured?.detectMs),
          ms(r.measured?.recoverMs),
          `${r.jobs}`,
          `${r.jobsLost}`,
          `${r.appliedTwice}`,
          r.broken.length === 0 ? "hold" : r.broken.join("; "),
          r.error === undefined ? (r.measured?.note ?? "") : `failed: ${r.error.split("\n")[0]}`,
        ];
  return `| ${[r.faults.join(", "), r.injected, ...cells].map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`;
};

const ms = (value: number | null | undefined): string =>
  value === null || value === undefined
    ? ""
    : value < 1000
      ? `${Math.round(value)} ms`
      : `${(value / 1000).toFixed(1)} s`;
