// What an agent's end of an attempt means as a record. An end that breaks the contract (a result that is no JSON object or too
// large, a name that is no file name) still ends the attempt, as agent_bug: refusing the call would make the agent repeat it for
// ever. What the work used is kept in every case, because it was spent.
import {
  type CompleteRequest,
  type OfferAnswer,
  Outcome,
  Refusal,
} from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import type { Artifact } from "@renderplane/proto/gen/renderplane/v1/types.ts";
import { type FailureClass, factsOf, isFailureClass } from "@renderplane/proto/kernel/failure.ts";
import {
  artifactNamePattern,
  maxEvidenceBytes,
  maxOutputsPerStage,
  maxResultBytes,
  sha256Pattern,
} from "@renderplane/proto/kernel/limits.ts";
import type { FailureRecord, JsonObject } from "../domain/records.ts";
import { unstorable } from "../domain/storable.ts";
import { attemptIdPattern, cleanText, refuse } from "./convert.ts";
import type { EndRecord, OutputRecord } from "./operations.ts";

/** Services that one stage may bill; more are cut. */
const maxUsageLines = 50;
const maxMessageLength = 2000;
/** Nothing that is billed comes in such numbers for one stage; a line beyond it is a fault of the agent and is left out. */
const maxQuantity = 1e12;
/** A type with plain parameters: it becomes a header of downloads. */
const mediaTypePattern = /^[a-z0-9.+-]+\/[a-z0-9.+-]+(; ?[a-z0-9.+-]+=[A-Za-z0-9.+-]+)*$/;

const outcomes = {
  [Outcome.OUTCOME_SUCCEEDED]: "succeeded",
  [Outcome.OUTCOME_FAILED]: "failed",
  [Outcome.OUTCOME_CANCELLED]: "cancelled",
  [Outcome.OUTCOME_INTERRUPTED]: "interrupted",
} as const;

export const endRecord = (request: CompleteRequest, hostId: string): EndRecord => {
  if (!attemptIdPattern.test(request.attemptId)) refuse("/attempt_id", "is not the id of an attempt");
  const base = { attemptId: request.attemptId, fence: request.fence, hostId, usage: usageOf(request) };
  try {
    const outcome = outcomes[request.outcome as keyof typeof outcomes];
    if (!outcome) throw new RangeError(`outcome ${request.outcome} is not one that this version knows`);
    return {
      ...base,
      outcome,
      result: outcome === "succeeded" ? resultOf(request.result) : {},
      outputs: outcome === "succeeded" ? outputRecords(request.outputs) : [],
      failure: outcome === "succeeded" ? null : reportedFailure(request, outcome),
    };
  } catch (error) {
    const message = `the agent's report cannot be used: ${error instanceof Error ? error.message : String(error)}; upgrade the agent`;
    return { ...base, outcome: "failed", result: {}, outputs: [], failure: failureOf("agent_bug", message) };
  }
};

/** Throws RangeError with a sentence. */
export const outputRecords = (outputs: readonly Artifact[]): OutputRecord[] => {
  if (outputs.length > maxOutputsPerStage)
    throw new RangeError(`${outputs.length} outputs, a stage has at most ${maxOutputsPerStage}`);
  if (new Set(outputs.map((output) => output.name)).size !== outputs.length)
    throw new RangeError("two outputs have the same name");
  return outputs.map(({ name, sha256, sizeBytes, mediaType }) => {
    if (!artifactNamePattern.test(name))
      throw new RangeError(`the output name ${JSON.stringify(cleanText(name, 60))} is not a plain file name`);
    if (!sha256Pattern.test(sha256)) throw new RangeError(`the sha256 of ${name} is not 64 lower-case hex digits`);
    if (sizeBytes < 0n || sizeBytes > BigInt(Number.MAX_SAFE_INTEGER))
      throw new RangeError(`the size of ${name}, ${sizeBytes} bytes, is not possible`);
    const plain = mediaTypePattern.test(mediaType) ? cleanText(mediaType) : "application/octet-stream";
    return { name, sha256, sizeBytes: Number(sizeBytes), mediaType: plain };
  });
};

const resultOf = (text: string): JsonObject => {
  const size = Buffer.byteLength(text);
  if (size > maxResultBytes) throw new RangeError(`the result is ${size} bytes, at most ${maxResultBytes} are kept`);
  let value: unknown;
  try {
    // Values lose what cannot be stored, for it changes nothing; the rest of it is a report that breaks the contract.
    value = JSON.parse(text === "" ? "{}" : text, (_key, inner: unknown) =>
      typeof inner === "string" ? inner.replaceAll("\u0000", "").toWellFormed() : inner,
    );
  } catch (error) {
    throw new RangeError(error instanceof RangeError ? "the result is nested too deeply" : "the result is not JSON");
  }
  const wrong = unstorable(value);
  if (wrong) throw new RangeError(`the result is not one that can be stored: ${wrong.detail}`);
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw new RangeError("the result is not a JSON object");
  return value as JsonObject;
};

const usageOf = (request: CompleteRequest): EndRecord["usage"] =>
  request.usage
    .filter((use) => use.quantity >= 0 && use.quantity <= maxQuantity)
    .slice(0, maxUsageLines)
    .map((use) => ({
      service: cleanText(use.service),
      provider: cleanText(use.provider),
      unit: cleanText(use.unit),
      quantity: use.quantity,
    }));

const reportedFailure = (request: CompleteRequest, outcome: string): FailureRecord | null => {
  const reported = request.failure;
  if (!reported) return outcome === "failed" ? failureOf("unknown", "the agent gave no cause") : null;
  const failureClass = isFailureClass(reported.failureClass) ? reported.failureClass : "unknown";
  return {
    ...failureOf(failureClass, cleanText(reported.message, maxMessageLength)),
    evidence: cleanText(reported.evidence.slice(-maxEvidenceBytes), maxEvidenceBytes),
    exit: cleanText(reported.exit),
  };
};

const failureOf = (failureClass: FailureClass, message: string): FailureRecord => ({
  failureClass,
  severity: factsOf(failureClass).severity,
  message,
});

const refusals: { readonly [R in Refusal]?: readonly [FailureClass, string] } = {
  [Refusal.REFUSAL_DRAINING]: ["transient", "the host is draining"],
  [Refusal.REFUSAL_NO_CAPACITY]: ["transient", "the host has no capacity left"],
  [Refusal.REFUSAL_MISSING_CAPABILITY]: ["missing_program", "the host lacks a capability"],
  [Refusal.REFUSAL_DISK_LOW]: ["disk_full", "the scratch disk of the host is too full"],
  [Refusal.REFUSAL_SPEC_INVALID]: ["agent_bug", "the agent cannot read the offer"],
  [Refusal.REFUSAL_ALREADY_HELD]: ["transient", "the host already holds this attempt"],
  [Refusal.REFUSAL_JOURNAL_FULL]: ["transient", "the host has too many results that were not acknowledged"],
};

/** A refused offer as the end of its attempt; it does not count against the stage's retries. */
export const refusalRecord = (answer: OfferAnswer, hostId: string): EndRecord => {
  const [failureClass, text] = refusals[answer.refusal] ?? ["transient", "the host refused the offer"];
  const reason = cleanText(answer.reason, maxMessageLength);
  return {
    attemptId: answer.attemptId,
    fence: answer.fence,
    hostId,
    outcome: "refused",
    result: {},
    outputs: [],
    failure: failureOf(failureClass, reason === "" ? text : `${text}: ${reason}`),
    usage: [],
  };
};
