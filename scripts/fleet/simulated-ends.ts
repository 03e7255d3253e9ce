// How a simulated host reports what ended: until it is answered, one call at a time, many ends in one call when the control plane
// speaks protocol 2. What gathers while a call is under way goes with the next one, so the batches grow with the load by themselves.
import { Metadata, type ServiceError } from "@grpc/grpc-js";
import type {
  AgentServiceClient,
  CompleteManyResponse,
  CompleteRequest,
  CompleteResponse,
} from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import { maxEndsPerCall } from "@renderplane/proto/kernel/limits.ts";
import type { Meter } from "./meter.ts";

const callLimitMs = 10_000;
/** After a call that failed; doubles up to the cap, as the journal of a real agent does. */
const firstPauseMs = 500;
const longestPauseMs = 10_000;

export type SimulatedEnds = {
  readonly add: (end: CompleteRequest) => void;
  /** A way to the control plane, or none. */
  readonly use: (client: AgentServiceClient | undefined, protocol: number) => void;
  readonly waiting: () => number;
  readonly forget: () => void;
};

export const createSimulatedEnds = (parts: {
  readonly meter: Meter;
  readonly acknowledged: (attemptId: string) => void;
}): SimulatedEnds => {
  const { meter } = parts;
  let waiting: CompleteRequest[] = [];
  let client: AgentServiceClient | undefined;
  let protocol = 1;
  let isBusy = false;
  let failures = 0;
  let timer: NodeJS.Timeout | undefined;

  const call = (way: AgentServiceClient, ends: readonly CompleteRequest[]): Promise<(boolean | undefined)[]> => {
    const options = { deadline: Date.now() + callLimitMs };
    return new Promise((resolve, reject) => {
      const fail = (error: ServiceError | null) => error && reject(error);
      if (protocol >= 2)
        way.completeMany({ ends: [...ends] }, new Metadata(), options, (error, answer: CompleteManyResponse) =>
          error
            ? fail(error)
            : // invalid_request will be refused for ever; anything else is sent again.
              resolve(
                answer.results.map((r) =>
                  r.errorCode === "" ? r.applied : r.errorCode === "invalid_request" ? false : undefined,
                ),
              ),
        );
      else
        way.complete(ends[0] as CompleteRequest, new Metadata(), options, (error, answer: CompleteResponse) =>
          error ? fail(error) : resolve([answer.applied]),
        );
    });
  };

  const flush = async (): Promise<void> => {
    if (isBusy || !client || waiting.length === 0) return;
    isBusy = true;
    try {
      while (client && waiting.length > 0) {
        const ends = waiting.slice(0, protocol >= 2 ? maxEndsPerCall : 1);
        const began = performance.now();
        const answers = await call(client, ends);
        meter.time("complete", performance.now() - began);
        const done = new Set<CompleteRequest>();
        ends.forEach((end, i) => {
          const applied = answers[i];
          if (applied === undefined) return;
          done.add(end);
          meter.count(applied ? "applied" : "stale");
          parts.acknowledged(end.attemptId);
        });
        waiting = waiting.filter((end) => !done.has(end));
        if (done.size === 0) throw new Error("no end was taken");
        failures = 0;
      }
    } catch {
      meter.count("repeatedCalls");
      const pause = Math.min(longestPauseMs, firstPauseMs * 2 ** failures++);
      clearTimeout(timer);
      timer = setTimeout(() => void flush(), pause);
    } finally {
      isBusy = false;
    }
  };
  let isAsked = false;

  return {
    add: (end) => {
      waiting.push(end);
      if (isAsked) return;
      isAsked = true;
      // After everything that ends in this turn of the event loop.
      setImmediate(() => {
        isAsked = false;
        void flush();
      });
    },
    use: (next, spoken) => {
      client = next;
      protocol = spoken;
      failures = 0;
      void flush();
    },
    waiting: () => waiting.length,
    forget: () => {
      clearTimeout(timer);
      waiting = [];
    },
  };
};
