// Ends that wait together go in one call, and each is answered for itself: a herd of results after an outage costs a few calls.
// A control plane that does not know the call (an older release) gets one end a call, for as long as its session lasts.
// Keeps: one end that cannot be taken fails nobody else's. Leaves repetition to the journal (work/completions.ts).
import type {
  AgentServiceClient,
  CompleteRequest,
  CompleteResponse,
  CompleteResult,
} from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import { type ErrorCode, errorCodes, isCode, RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { maxControlMessageBytes, maxEndsPerCall } from "@renderplane/proto/kernel/limits.ts";
import { complete, completeMany, fitting, sizeOf } from "./complete.ts";
import { isUnimplemented } from "./errors.ts";

/** One is under way and one is filling; more would only split what could go together. */
const maxCalls = 2;
/** Tag and length of one end inside the call. */
const framingBytes = 8;

type Waiting = {
  readonly request: CompleteRequest;
  readonly bytes: number;
  readonly resolve: (response: CompleteResponse) => void;
  readonly reject: (error: unknown) => void;
};

export type EndSender = {
  send(request: CompleteRequest): Promise<CompleteResponse>;
  /** A session opened and speaks this. */
  onSession(protocol: number): void;
};

export const createEndSender = (client: () => AgentServiceClient): EndSender => {
  const queue: Waiting[] = [];
  let calls = 0;
  let canTakeMany = false;
  let isDue = false;

  const takeBatch = (): Waiting[] => {
    const batch: Waiting[] = [];
    let bytes = 0;
    for (let next = queue[0]; next; next = queue[0]) {
      bytes += next.bytes + framingBytes;
      if (batch.length > 0 && (batch.length >= maxEndsPerCall || bytes > maxControlMessageBytes)) break;
      batch.push(next);
      queue.shift();
    }
    return batch;
  };
  const sendOne = ({ request, resolve, reject }: Waiting): Promise<void> =>
    (async () => complete(client(), request))().then(resolve, reject);
  const sendTogether = async (batch: readonly Waiting[]): Promise<void> => {
    try {
      const { results } = await completeMany(
        client(),
        batch.map((waiting) => waiting.request),
      );
      for (const [i, waiting] of batch.entries()) settle(waiting, results[i]);
    } catch (error) {
      if (isUnimplemented(error)) canTakeMany = false;
      // The call itself was refused, perhaps for one of them: alone each gets its own answer.
      if (isUnimplemented(error) || refusedAsWhole.some((code) => isCode(error, code)))
        await Promise.all(batch.map(sendOne));
      else for (const waiting of batch) waiting.reject(error);
    }
  };
  const go = () => {
    isDue = false;
    while (queue.length > 0 && calls < maxCalls) {
      const batch = canTakeMany ? takeBatch() : queue.splice(0, maxEndsPerCall);
      calls += 1;
      const sent = canTakeMany && batch.length > 1 ? sendTogether(batch) : Promise.all(batch.map(sendOne));
      void sent.finally(() => {
        calls -= 1;
        go();
      });
    }
  };
  return {
    send: (request) =>
      new Promise((resolve, reject) => {
        const made = fitting(request);
        queue.push({ request: made, bytes: sizeOf(made), resolve, reject });
        // What was handed over in the same turn of the loop goes together.
        if (!isDue) setImmediate(go);
        isDue = true;
      }),
    onSession: (protocol) => {
      canTakeMany = protocol >= 2;
    },
  };
};

const refusedAsWhole: readonly ErrorCode[] = ["invalid_request", "malformed_body", "body_too_large", "internal"];

const settle = (waiting: Waiting, result: CompleteResult | undefined): void => {
  if (!result) waiting.reject(new RenderplaneError("unavailable", "the control plane did not answer for this end"));
  else if (result.errorCode === "") waiting.resolve({ applied: result.applied });
  else waiting.reject(new RenderplaneError(codeOf(result.errorCode), result.errorMessage));
};

/** A code of a later release is a fault that may pass. */
const codeOf = (text: string): ErrorCode => (Object.hasOwn(errorCodes, text) ? (text as ErrorCode) : "internal");
