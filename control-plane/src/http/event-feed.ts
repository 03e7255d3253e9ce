// The live events of this replica: one reader of the event log for all listeners, however many browsers are open. It wakes
// at bells and looks again by itself; a listener that knows the last number it saw is first brought up from the log.
// It decides nothing about topics or wire formats. Invariant: a listener sees every event after its number once, in order,
// or is told that it was dropped.
import type { Lifetime } from "@renderplane/proto/kernel/process/lifecycle.ts";
import type { Logger } from "@renderplane/proto/kernel/process/logger.ts";
import { rhythm } from "@renderplane/proto/kernel/process/rhythm.ts";
import type { Bus } from "../bus/bus.ts";
import type { EventRow } from "../domain/records.ts";
import type { HttpOperations } from "./operations.ts";

/** Events of one read of the log. */
const pageSize = 500;
/** Without any bell (they may be lost) an event is seen this late at most. */
const periodMs = 1_000;
/** Live events that wait while a listener reads older ones; above it the listener is dropped and resumes later. */
const maxWaiting = 2_000;

export type Progress = { readonly video_id: string; readonly [key: string]: unknown };
export type Listener = {
  /** While older events are read: waits until there is room for one more. Live events are not held up for one listener. */
  readonly room?: () => Promise<void> | undefined;
  readonly onEvent: (event: EventRow) => void;
  /** Messages of the bus about progress inside a stage and after it; best effort, without a number. */
  readonly onProgress: (message: Progress) => void;
  /** Too slow while catching up, the log could not be read, or the feed stops. Nothing follows. */
  readonly onDropped: () => void;
};
export type EventFeed = Lifetime & {
  /** `after`: only later events. Undefined: from now on. Returns how to stop listening. */
  listen(listener: Listener, after?: bigint): () => void;
};

type Seat = { readonly listener: Listener; seen: bigint | undefined; waiting: EventRow[] | undefined };

export const createEventFeed = (
  bus: Bus,
  operations: Pick<HttpOperations, "eventsAfter" | "lastEventSeq">,
  log: Logger,
): EventFeed => {
  const seats = new Set<Seat>();
  let cursor: bigint | undefined;
  let stopListening: (() => void)[] = [];

  const reader = rhythm({
    name: "event-feed",
    periodMs,
    onError: (error) => log.warn({ err: error }, "event feed cannot read the log"),
    turn: async () => {
      if (seats.size === 0) {
        // Nobody listens: forget the place instead of reading for nobody.
        cursor = undefined;
        return periodMs;
      }
      if (cursor === undefined) {
        const last = await operations.lastEventSeq();
        cursor ??= last;
      }
      const events = await operations.eventsAfter({ seq: cursor, limit: pageSize });
      for (const event of events) {
        cursor = event.seq;
        for (const seat of seats) deliver(seat, event);
      }
      return events.length === pageSize ? 0 : periodMs;
    },
  });

  const drop = (seat: Seat) => {
    if (seats.delete(seat)) seat.listener.onDropped();
  };
  const deliver = (seat: Seat, event: EventRow) => {
    if (seat.seen !== undefined && event.seq <= seat.seen) return;
    if (seat.waiting !== undefined) {
      if (seat.waiting.length >= maxWaiting) drop(seat);
      else seat.waiting.push(event);
      return;
    }
    seat.seen = event.seq;
    seat.listener.onEvent(event);
  };

  /** Older events from the log, then what came meanwhile; from then on the seat is fed live. */
  const catchUp = async (seat: Seat, after: bigint) => {
    let from = after;
    while (seats.has(seat)) {
      const page = await operations.eventsAfter({ seq: from, limit: pageSize });
      for (const event of page) {
        await seat.listener.room?.();
        if (!seats.has(seat)) return;
        from = event.seq;
        seat.listener.onEvent(event);
      }
      if (page.length < pageSize) break;
    }
    const waiting = seat.waiting ?? [];
    seat.waiting = undefined;
    seat.seen = from;
    for (const event of waiting) deliver(seat, event);
  };

  return {
    name: "event feed",
    start: async () => {
      stopListening = [
        // Rung once when an event is written and again when the relay has numbered it.
        bus.on("events", reader.ring),
        bus.subscribe("pipeline:progress", (message) => {
          if (isProgress(message)) for (const seat of seats) seat.listener.onProgress(message);
        }),
      ];
      await reader.start();
    },
    stop: async () => {
      for (const stop of stopListening.splice(0)) stop();
      await reader.stop();
      for (const seat of [...seats]) drop(seat);
    },
    listen: (listener, after) => {
      const seat: Seat = { listener, seen: undefined, waiting: [] };
      seats.add(seat);
      const begin = async () => {
        const last = await operations.lastEventSeq();
        // The reader's place is fixed before the log is read to its end, so nothing falls between the two.
        cursor ??= last;
        // A number from the future belongs to a database that is no more: start from now.
        await catchUp(seat, after === undefined || after > last ? last : after);
      };
      begin().catch((error: unknown) => {
        log.warn({ err: error }, "a listener could not be brought up to date");
        drop(seat);
      });
      return () => void seats.delete(seat);
    },
  };
};

const isProgress = (message: unknown): message is Progress =>
  typeof message === "object" && message !== null && typeof (message as Progress).video_id === "string";
