// Reports of agents that a database cannot store as they are: each ends its attempt once and for all, on a real database.
// A report that failed there would be repeated by the agent for ever, and one health record could stop every host's renewal.
import { CompleteRequest, GpuHealth, Health, Outcome } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import { afterAll, beforeAll, expect, test } from "vitest";
import { finishAttempt } from "../operations/finish-attempt.ts";
import { recordHealth } from "../operations/renew-leases.ts";
import { type Engine, openEngine } from "../testing/engine.ts";
import { endRecord, outputRecords } from "./completion.ts";
import { healthRecord } from "./convert.ts";

let engine: Engine;
let host: { hostId: string; epoch: bigint };
beforeAll(async () => {
  engine = await openEngine();
  host = await engine.host("a");
});
afterAll(() => engine.close());

const complete = async (report: Partial<CompleteRequest>) => {
  const id = await engine.submit();
  const offer = (await engine.offers(host)).find((o) => o.jobId === id);
  if (!offer) throw new Error("nothing was offered");
  await engine.accept(host, offer);
  const empty = CompleteRequest.decode(new Uint8Array());
  const request = { ...empty, attemptId: offer.attemptId, fence: offer.fence, ...report };
  expect(await finishAttempt(engine.ctx, endRecord(request, host.hostId))).toEqual({ applied: true });
  return engine.detail(id);
};
const failed = Outcome.OUTCOME_FAILED;
const succeeded = Outcome.OUTCOME_SUCCEEDED;

test("a text that is cut inside a character", async () => {
  const failure = {
    exit: "",
    failureClass: "crashed",
    message: `${"a".repeat(1999)}😀`,
    evidence: `😀${"b".repeat(16_383)}`,
  };
  const { attempts } = await complete({ outcome: failed, failure });
  expect(attempts[0]?.failure).toMatchObject({
    message: `${"a".repeat(1999)}\ufffd`,
    evidence: `\ufffd${"b".repeat(16_383)}`,
  });
});

test.each([
  ["half a character in a value", '{"title": "a\\ud83d"}', "succeeded"],
  ["a NUL in a value", '{"title": "a\\u0000b"}', "succeeded"],
  ["half a character in a key", '{"a\\ud83d": 1}', "failed"],
  ["5,000 levels", `{"a": ${"[".repeat(5_000)}${"]".repeat(5_000)}}`, "failed"],
  ["30,000 levels", `{"a": ${"[".repeat(30_000)}${"]".repeat(30_000)}}`, "failed"],
])("a result with %s", async (_, result, outcome) => {
  const { attempts } = await complete({ outcome: succeeded, result });
  expect(attempts[0]?.outcome).toBe(outcome);
  if (outcome === "failed") expect(attempts[0]?.failure?.failureClass).toBe("agent_bug");
});

test("a quantity that cannot have been used charges nothing", async () => {
  const usage = [{ service: "openai", provider: "openai", unit: "token", quantity: 1e300 }];
  const { costs } = await complete({ outcome: failed, usage });
  expect(costs.map((c) => c.service)).not.toContain("openai");
});

test("a media type that is none, and could end a header, becomes plain bytes", () => {
  const output = { name: "a.mp4", sha256: "0".repeat(64), sizeBytes: 1n };
  const types = ["video/mp4", "text/html\r\nset-cookie: a=b", "", "video/mp4; codecs=é"];
  expect(
    outputRecords(types.map((mediaType, n) => ({ ...output, name: `${n}.mp4`, mediaType }))).map((o) => o.mediaType),
  ).toEqual(["video/mp4", ...types.slice(1).map(() => "application/octet-stream")]);
});

test("a health record whose text is cut inside a character does not stop the others", async () => {
  const other = await engine.host("b");
  const gpu = { ...GpuHealth.decode(new Uint8Array()), uuid: `${"u".repeat(199)}😀` };
  const health = healthRecord({ ...Health.decode(new Uint8Array()), gpus: [gpu] });
  const seen = await recordHealth(engine.ctx, [
    { ...host, health },
    { ...other, health: {} },
  ]);
  expect(seen).toEqual(new Set([host.hostId, other.hostId]));
});

test("an agent that says it drains gets no offers until it says otherwise", async () => {
  const own = await openEngine();
  const drained = await own.host("a");
  const health = { ...Health.decode(new Uint8Array()), scratchFreeBytes: 2n ** 36n, unacknowledgedEnds: 3 };
  const says = (isDraining: boolean) =>
    recordHealth(own.ctx, [{ ...drained, health: healthRecord({ ...health, isDraining }) }]);
  await own.submit();
  await says(true);
  expect(await own.offers(drained)).toEqual([]);
  const [row] = await own.sql<{ health: object }>(`select health from hosts`);
  expect(row?.health).toMatchObject({ is_draining: true, unacknowledged_ends: 3 });
  await says(false);
  expect(await own.offers(drained)).toHaveLength(1);
  await own.close();
});
