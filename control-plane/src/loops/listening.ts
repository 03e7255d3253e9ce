// Ties a bell to a rhythm's lifetime: it listens from start to stop.
import type { Rhythm } from "@renderplane/proto/kernel/process/rhythm.ts";

export const listening = (loop: Rhythm, listen: () => () => void): Rhythm => {
  let unlisten: (() => void) | undefined;
  return {
    ...loop,
    start: async () => {
      unlisten ??= listen();
      await loop.start();
    },
    stop: async () => {
      unlisten?.();
      await loop.stop();
    },
  };
};
