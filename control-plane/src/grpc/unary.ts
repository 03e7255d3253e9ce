// The frame of every unary call: one try around the whole body, because an error that escapes a gRPC callback ends the process.
import type { handleUnaryCall, ServerUnaryCall } from "@grpc/grpc-js";
import type { Logger } from "@renderplane/proto/kernel/process/logger.ts";
import { statusOf } from "./errors.ts";

export const unary =
  <Request, Response>(
    log: Logger,
    act: (request: Request, call: ServerUnaryCall<Request, Response>) => Promise<Response>,
  ): handleUnaryCall<Request, Response> =>
  (call, callback) => {
    void (async () => {
      try {
        callback(null, await act(call.request, call));
      } catch (error) {
        callback(statusOf(error, log));
      }
    })();
  };
