// What a test and the agent process that it kills say to each other.
import type {
  CompleteRequest,
  HeldAttempt,
  HelloAck,
  Offer,
  OfferAnswer,
} from "@renderplane/proto/gen/renderplane/v1/agent.ts";

export type FromAgent =
  | { readonly type: "hello"; readonly held: HeldAttempt[] }
  | { readonly type: "answer"; readonly answer: OfferAnswer }
  | { readonly type: "paid"; readonly attempt: string }
  | { readonly type: "complete"; readonly request: CompleteRequest };

export type ToAgent =
  | { readonly type: "offer"; readonly offer: Offer }
  | { readonly type: "start"; readonly attemptId: string; readonly fence: bigint }
  | { readonly type: "verdicts"; readonly ack: HelloAck }
  | { readonly type: "completed"; readonly attemptId: string };
