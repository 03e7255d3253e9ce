// The calls of an enrolled host outside its stream: the end of an attempt, where its outputs go, and its next certificate.
// The host is taken from the certificate, so a host can only speak for attempts that are its own.
import type {
  AgentServiceServer,
  CompleteRequest,
  CompleteResponse,
  PlaceOutputsRequest,
  PlaceOutputsResponse,
  RenewCertificateRequest,
  RenewCertificateResponse,
} from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import type { Logger } from "@renderplane/proto/kernel/process/logger.ts";
import { endRecord, outputRecords } from "./completion.ts";
import { attemptIdPattern, refuse } from "./convert.ts";
import type { LiveSessions } from "./live-session.ts";
import type { GrpcOperations } from "./operations.ts";
import { type Peer, peerOf } from "./peer.ts";
import { unary } from "./unary.ts";

export const agentCalls = (parts: {
  readonly operations: GrpcOperations;
  readonly sessions: LiveSessions;
  readonly log: Logger;
}): Pick<AgentServiceServer, "complete" | "placeOutputs" | "renewCertificate"> => ({
  complete: unary<CompleteRequest, CompleteResponse>(parts.log, async (request, call) => {
    const { hostId } = await trustedPeer(parts.operations, call);
    const { applied } = await parts.operations.finishAttempt(endRecord(request, hostId));
    parts.sessions.byHost.get(hostId)?.ended.add(request.attemptId);
    return { applied };
  }),
  placeOutputs: unary<PlaceOutputsRequest, PlaceOutputsResponse>(parts.log, async (request, call) => {
    const { hostId } = await trustedPeer(parts.operations, call);
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

/** Who calls. An open connection outlives the revocation of its certificate, so every call asks again. */
const trustedPeer = async (
  operations: Pick<GrpcOperations, "checkCertificate">,
  call: Parameters<typeof peerOf>[0],
): Promise<Peer> => {
  const peer = peerOf(call);
  await operations.checkCertificate(peer);
  return peer;
};

const readOutputs = (request: PlaceOutputsRequest) => {
  try {
    return outputRecords(request.outputs);
  } catch (error) {
    return refuse("/outputs", error instanceof Error ? error.message : String(error));
  }
};
