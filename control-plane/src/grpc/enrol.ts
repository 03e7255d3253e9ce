// The one call that needs no client certificate. Everything about tokens, names and certificates is decided by the operation.
import type { EnrolRequest, EnrolResponse } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import type { Logger } from "@renderplane/proto/kernel/process/logger.ts";
import { inventoryRecord } from "./convert.ts";
import type { GrpcOperations } from "./operations.ts";
import { unary } from "./unary.ts";

export const enrol = (parts: {
  readonly operations: Pick<GrpcOperations, "enrolHost">;
  readonly log: Logger;
  /** Throws when too many arrive. */
  admit(): Promise<void>;
  sessionAddress(): string;
}) =>
  unary<EnrolRequest, EnrolResponse>(parts.log, async ({ token, csr, name, inventory }, call) => {
    await parts.admit();
    try {
      const signed = await parts.operations.enrolHost({ token, csr, name, inventory: inventoryRecord(inventory) });
      parts.log.info({ hostId: signed.hostId, name }, "host enrolled");
      return { ...signed, sessionAddress: parts.sessionAddress() };
    } catch (error) {
      parts.log.warn({ peer: call.getPeer(), reason: String(error) }, "an enrolment was refused");
      throw error;
    }
  });
