// The open streams of this edge (SSE and WebSocket): how many there may be, their heartbeat, and their end at shutdown.
// What flows in them is not its business. Invariant: one timer for all streams, and none outlives the edge.
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import type { Lifetime } from "@renderplane/proto/kernel/process/lifecycle.ts";
import { rhythm } from "@renderplane/proto/kernel/process/rhythm.ts";

/** Proxies cut silent connections after 30 to 60 seconds. */
const defaultHeartbeatMs = 15_000;
/** A stream costs a socket and a seat at the event feed; one more is refused with 503. */
const maxStreams = 2_000;

export type LiveStream = { readonly beat: () => void; readonly end: () => void };
export type LiveStreams = Lifetime & {
  /** Throws `unavailable` when there are too many or the edge is closing. */
  checkRoom(): void;
  /** Returns how to take it out again. */
  add(stream: LiveStream): () => void;
};

export const createLiveStreams = (onCount: (open: number) => void, heartbeatMs = defaultHeartbeatMs): LiveStreams => {
  const open = new Set<LiveStream>();
  let isClosing = false;
  const beat = rhythm({
    name: "stream-heartbeat",
    periodMs: heartbeatMs,
    turn: async () => {
      for (const stream of [...open]) stream.beat();
    },
    onError: () => {},
  });
  return {
    name: "live streams",
    start: () => beat.start(),
    stop: async () => {
      isClosing = true;
      await beat.stop();
      for (const stream of [...open]) stream.end();
    },
    checkRoom: () => {
      if (isClosing || open.size >= maxStreams)
        throw new RenderplaneError(
          "unavailable",
          isClosing ? "This control plane is stopping." : `There are already ${maxStreams} open streams here.`,
          { retryAfterMs: 5_000 },
        );
    },
    add: (stream) => {
      open.add(stream);
      onCount(open.size);
      return () => {
        open.delete(stream);
        onCount(open.size);
      };
    },
  };
};
