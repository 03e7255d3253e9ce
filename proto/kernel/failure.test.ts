import { describe, expect, test } from "vitest";
import { errorCodes } from "./errors.ts";
import { factsOf, failureClasses, isFailureClass } from "./failure.ts";

describe("the failure classes", () => {
  test("[S128] severities follow the classification rules of requirements 002, on typed classes", () => {
    const expected = {
      // "cost limit", "gpu memory ... out of memory"
      critical: ["cost_limit", "gpu_oom"],
      // ConnectionError, TimeoutError, "api ... quota"
      high: ["network", "timeout", "provider_unavailable", "provider_quota", "host_lost"],
      // ValueError, KeyError, "retry"
      medium: ["input_invalid", "input_missing", "input_corrupt", "transient"],
      // the rest
      low: ["unknown", "crashed", "killed", "disk_full", "host_fault"],
    } as const;
    for (const [severity, classes] of Object.entries(expected))
      for (const name of classes) expect(factsOf(name).severity, name).toBe(severity);
    const words = new Set(Object.values(failureClasses).map((facts) => facts.severity));
    expect([...words].sort()).toEqual(["critical", "high", "low", "medium"]);
  });

  test("a word that is no class is not taken for one", () => {
    expect(isFailureClass("toString")).toBe(false);
    expect(isFailureClass("disk_full")).toBe(true);
  });

  test("nothing that a second try cannot mend is tried again", () => {
    for (const name of [
      "input_corrupt",
      "input_refused",
      "input_invalid",
      "cost_limit",
      "provider_auth",
      "agent_bug",
    ] as const)
      expect(factsOf(name).retry, name).toBe("never");
  });
});

describe("the error codes", () => {
  test("every code has an HTTP error status and a gRPC status that is not OK", () => {
    for (const [code, row] of Object.entries(errorCodes)) {
      expect(row.http, code).toBeGreaterThanOrEqual(400);
      expect(row.grpc, code).toBeGreaterThan(0);
      expect(row.grpc, code).toBeLessThanOrEqual(16);
    }
  });
});
