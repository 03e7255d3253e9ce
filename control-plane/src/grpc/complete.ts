// The calls of an enrolled host outside its stream: the end of attempts, where their outputs go, and its next certificate.
// The host is taken from the certificate, so a host can only speak for attempts that are its own.
// Of many ends in one call each is answered for itself: one that is malformed or fails never holds the others.
import type {
  AgentServiceServer,
  CompleteManyRequest,
  CompleteManyResponse,
  CompleteRequest,
  CompleteResponse,
  CompleteResult,
  PlaceOutputsRequest,
  PlaceOutputsResponse,
  RenewCertificateRequest,
  RenewCertificateResponse,
} from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import { maxEndsPerCall } from "@renderplane/proto/kernel/limits.ts";
import type { Logger } from "@renderplane/proto/kernel/process/logger.ts";
import { endRecord, outputRecords } from "./completion.ts";
import { attemptIdPattern, refuse } from "./convert.ts";
import { knownError, textOf } from "./errors.ts";
import type { LiveSessions } from "./live-session.ts";
import type { GrpcOperations } from "./operations.ts";
import { type Peer, peerOf } from "./peer.ts";
import { unary } from "./unary.ts";

export type AgentCallParts = {
  readonly operations: Pick<GrpcOperations, "checkCertificate" | "finishAttempt" | "placeOutputs" | "renewCertificate">;
  readonly sessions: LiveSessions;
  /** The stream of this host is open under this certificate and was looked at a moment ago. */
  isTrusted(hostId: string, serial: string): boolean;
  readonly log: Logger;
};

export const agentCalls = (
  parts: AgentCallParts,
): Pick<AgentServiceServer, "complete" | "completeMany" | "placeOutputs" | "renewCertificate"> => ({
  complete: unary<CompleteRequest, CompleteResponse>(parts.log, async (request, call) => {
    const { hostId } = await trustedPeer(parts, call);
    return { applied: await finish(parts, hostId, request) };
  }),
  completeMany: unary<CompleteManyRequest, CompleteManyResponse>(parts.log, async ({ ends }, call) => {
    if (ends.length > maxEndsPerCall)
      return refuse("/ends", `lists ${ends.length} ends, at most ${maxEndsPerCall} are taken in one call`);
    const { hostId } = await trustedPeer(parts, call);
    const results = ends.map(async (request): Promise<CompleteResult> => {
      try {
        return { applied: await finish(parts, hostId, request), errorCode: "", errorMessage: "" };
      } catch (error) {
        const known = knownError(error, parts.log);
        return { applied: false, errorCode: known.code, errorMessage: textOf(known) };
      }
    });
    return { results: await Promise.all(results) };
  }),
  placeOutputs: unary<PlaceOutputsRequest, PlaceOutputsResponse>(parts.log, async (request, call) => {
    const { hostId } = await trustedPeer(parts, call);
    const { attemptId, fence } = request;
    if (!attemptIdPattern.test(attemptId)) return refuse("/attempt_id", "is not the id of an attempt");
    const outputs = readOutputs(request);
    const targets = await parts.operations.placeOutputs({ hostId, attemptId, fence, outputs });
    return { targets: targets.map(({ sha256, url }) => ({ sha256, url })) };
  }),
  renewCertificate: unary<RenewCertificateRequest, RenewCertificateResponse>(parts.log, async ({ csr }, call) => {
    const { hostId, serial } = peerOf(call);
    const { certificate, authorities } = await parts.operations.renewCertificate({ hostId, serial, csr });
    parts.log.info({ hostId }, "certificate renewed");
    return { certificate, authorities };
  }),
});

/** Answers whether the end counts. */
const finish = async (parts: AgentCallParts, hostId: string, request: CompleteRequest): Promise<boolean> => {
  const { applied } = await parts.operations.finishAttempt(endRecord(request, hostId));
  const known = parts.sessions.byHost.get(hostId)?.attempts.get(request.attemptId);
  if (known?.fence === request.fence) known.hasEnded = true;
  return applied;
};

/**
 * Who calls. An open connection outlives the revocation of its certificate, so every call asks again, unless the watch over the
 * host's own session has just done so.
 */
const trustedPeer = async (parts: AgentCallParts, call: Parameters<typeof peerOf>[0]): Promise<Peer> => {
  const peer = peerOf(call);
  if (!parts.isTrusted(peer.hostId, peer.serial)) await parts.operations.checkCertificate(peer);
  return peer;
};

const readOutputs = (request: PlaceOutputsRequest) => {
  try {
    return outputRecords(request.outputs);
  } catch (error) {
    return refuse("/outputs", error instanceof Error ? error.message : String(error));
  }
};
