// The simulator against a real control plane, database and mTLS: what it says happened is what the rows say, on both protocols, with
// failures and hosts that go and come. A simulator that loses work by itself would prove nothing about anything else.
import { describe, expect, test } from "vitest";
import { readOptions } from "./options.ts";
import { type SimulationReport, simulate } from "./simulate.ts";

const limitMs = 180_000;
const run = (...args: string[]): Promise<SimulationReport> => {
  const options = readOptions([...args, "--heartbeat", "2", "--quiet"]);
  if (!options) throw new Error("help was asked for");
  return simulate(options, () => {}, new AbortController().signal);
};

describe("a run of the simulator", () => {
  test(
    "hosts enrol with tokens, jobs of many stages end, and the database agrees with the agents",
    async () => {
      const report = await run("--hosts", "3", "--jobs", "4", "--rate", "0", "--stage-ms", "50", "--drain", "120");
      expect(report.identities).toBe("enrolled with join tokens");
      expect(report.submissions).toMatchObject({ accepted: 4, failed: 0, firstError: null });
      expect(report.facts?.jobs).toEqual({ completed: 4 });
      expect(report.facts?.attempts.succeeded).toBe(4 * 6);
      expect(report.agents.applied).toBe(4 * 6);
      expect(report.facts?.jobWait.count).toBe(4);
      expect(report.brokenInvariants).toEqual([]);
      expect(report.hasEnded).toBe(true);
    },
    limitMs,
  );

  test(
    "on protocol 1 too, with stages that fail and hosts that restart",
    async () => {
      const report = await run(
        ...["--hosts", "4", "--jobs", "12", "--rate", "4", "--pipeline", "bench-noop", "--fixed-ms", "200"],
        ...["--fail", "crashed=0.2", "--churn", "600", "--away", "1", "--protocol", "1", "--drain", "150"],
      );
      const ended = report.facts?.jobs ?? {};
      expect((ended.completed ?? 0) + (ended.failed ?? 0)).toBe(12);
      expect(report.agents.failed).toBeGreaterThanOrEqual(report.facts?.attempts.failed ?? 0);
      expect(report.brokenInvariants).toEqual([]);
    },
    limitMs,
  );
});
