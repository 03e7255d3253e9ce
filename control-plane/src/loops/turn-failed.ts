// How a loop reports a turn that failed. A database that is away and a lead that was lost are the life of a fleet, told as warnings;
// anything else is a defect.
import { isCode } from "@renderplane/proto/kernel/errors.ts";
import type { Logger } from "@renderplane/proto/kernel/process/logger.ts";

export const turnFailed =
  (log: Logger, loop: string) =>
  (error: unknown): void => {
    if (isCode(error, "unavailable")) log.warn({ err: error, loop }, "loop turn put off");
    else log.error({ err: error, loop }, "loop turn failed");
  };
