// The unary calls: one try each, under a deadline. What must not be lost is repeated by the caller's journal, so a failure is
// thrown as the error of the one table and nothing is kept here. Which ends go in one call decides end-sender.ts.
import { Metadata, type ServiceError } from "@grpc/grpc-js";
import {
  type AgentServiceClient,
  type CompleteManyRequest,
  type CompleteManyResponse,
  CompleteRequest,
  type CompleteResponse,
  type PlaceOutputsRequest,
  type PlaceOutputsResponse,
  type RenewCertificateRequest,
  type RenewCertificateResponse,
} from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { maxControlMessageBytes } from "@renderplane/proto/kernel/limits.ts";
import { fromGrpc } from "./errors.ts";

const callLimitMs = 10_000;
/** What is left of the evidence when a report is too large for the wire. */
const shortEvidence = 2000;

type Act<Request, Response> = (
  request: Request,
  metadata: Metadata,
  options: { readonly deadline: number },
  callback: (error: ServiceError | null, response: Response) => void,
) => unknown;

const once = <Request, Response>(act: Act<Request, Response>, request: Request): Promise<Response> =>
  new Promise((resolve, reject) => {
    act(request, new Metadata(), { deadline: Date.now() + callLimitMs }, (error, response) =>
      error ? reject(fromGrpc(error)) : resolve(response),
    );
  });

export const complete = (client: AgentServiceClient, request: CompleteRequest): Promise<CompleteResponse> =>
  once<CompleteRequest, CompleteResponse>(client.complete.bind(client), fitting(request));

/** Every end was made `fitting` before. */
export const completeMany = (
  client: AgentServiceClient,
  ends: readonly CompleteRequest[],
): Promise<CompleteManyResponse> =>
  once<CompleteManyRequest, CompleteManyResponse>(client.completeMany.bind(client), { ends: [...ends] });

export const placeOutputs = (client: AgentServiceClient, request: PlaceOutputsRequest): Promise<PlaceOutputsResponse> =>
  once<PlaceOutputsRequest, PlaceOutputsResponse>(client.placeOutputs.bind(client), request);

export const renewCertificate = (
  client: AgentServiceClient,
  request: RenewCertificateRequest,
): Promise<RenewCertificateResponse> =>
  once<RenewCertificateRequest, RenewCertificateResponse>(client.renewCertificate.bind(client), request);

export const sizeOf = (request: CompleteRequest): number => CompleteRequest.encode(request).finish().length;

/** Shortens details first; a report that is still too large would be refused for ever, and says so. */
export const fitting = (request: CompleteRequest): CompleteRequest => {
  if (sizeOf(request) <= maxControlMessageBytes) return request;
  const { failure } = request;
  const shorter = failure
    ? { ...request, failure: { ...failure, evidence: failure.evidence.slice(-shortEvidence) } }
    : request;
  const size = sizeOf(shorter);
  if (size > maxControlMessageBytes)
    throw new RenderplaneError(
      "body_too_large",
      `the report of attempt ${request.attemptId} is ${size} bytes, at most ${maxControlMessageBytes} are sent`,
    );
  return shorter;
};
