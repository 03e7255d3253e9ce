// How much one host may say on its stream. More than this is a fault or an attack: the stream ends with a status and a time to come
// back, and the other hosts keep their answers. Every message of a batch counts.
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";

/** Far above what work needs: 64 attempts say progress twice a second each, and answers come once an attempt. */
export const messagesPerSecond = 2000;
const burstMessages = 4000;
/** A heartbeat has at most some 8 KiB; a Hello with a large inventory is the largest message. */
export const bytesPerSecond = 2 * 1024 * 1024;
const burstBytes = 8 * 1024 * 1024;
const comeBackMs = 10_000;

/** Throws `rate_limited`. */
export const createInboundLimit = (now: () => number = () => performance.now()) => {
  let messages = burstMessages;
  let bytes = burstBytes;
  let last = now();
  return (count: number, size: number): void => {
    const at = now();
    const seconds = (at - last) / 1000;
    last = at;
    messages = Math.min(burstMessages, messages + seconds * messagesPerSecond) - count;
    bytes = Math.min(burstBytes, bytes + seconds * bytesPerSecond) - size;
    if (messages < 0 || bytes < 0)
      throw new RenderplaneError(
        "rate_limited",
        `the host sends more than ${messagesPerSecond} messages or ${bytesPerSecond} bytes a second; its session ends`,
        { retryAfterMs: comeBackMs },
      );
  };
};
