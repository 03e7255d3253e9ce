// What waits for one host. Streams queue without limit when nobody looks; this queue has a bound in messages and in bytes, four
// classes (a stop overtakes an offer), and at most a little in flight, so that what is urgent is never behind a megabyte. What waits
// when the stream can take more leaves as one batch, if the host speaks protocol 2: the batch grows with the load.
// Messages are encoded once, here; a batch is framed around the encoded ones.
import { SessionResponse } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import { maxControlMessageBytes, maxMessagesPerBatch, maxQueuedMessages } from "@renderplane/proto/kernel/limits.ts";

export type Outgoing = NonNullable<SessionResponse["message"]>;
/** Most urgent first: stops and verdicts, lease acknowledgements, starts, offers. */
const classes = ["verdict", "ack", "start", "offer"] as const;
export type Urgency = (typeof classes)[number];

export type OutboundLimits = {
  readonly messages: number;
  readonly bytes: number;
  /** A host that takes nothing of what waits for it this long is cut off, or a cancel would wait with the rest. */
  readonly blockedMs: number;
};
export const outboundLimits: OutboundLimits = { messages: maxQueuedMessages, bytes: 1024 * 1024, blockedMs: 10_000 };

/** Writes that the transport has not taken yet. Few: it sends them in order, and what waits here can still be overtaken. */
const maxInFlight = 4;
const maxInFlightBytes = maxControlMessageBytes;

export type Outbound = {
  /** False: larger than a message may be, and not sent. A keyed message replaces the one that still waits under its key. */
  send(message: Outgoing, urgency: Urgency, key?: string): boolean;
  /** True once less than half of the queue is used; false when the stream is over. */
  room(): Promise<boolean>;
  /** From now on several go as one. What was sent before has left by itself. */
  batch(): void;
  waiting(): { readonly messages: number; readonly bytes: number };
  /** How long the host has taken nothing while something waits. */
  blockedMs(): number;
  /** Drops what waits; later sends do nothing. */
  close(): void;
};

export const createOutbound = (options: {
  /** `taken` is called when the transport has taken the message. */
  readonly write: (bytes: Buffer, taken: () => void) => void;
  readonly limits?: Partial<OutboundLimits>;
  /** The queue is full, or the stream cannot be written. Called once. */
  readonly onFailure: (cause: "overflow" | Error) => void;
}): Outbound => {
  const limits = { ...outboundLimits, ...options.limits };
  const queues: Waiting[][] = classes.map(() => []);
  const inFlight: number[] = [];
  const roomless: ((hasRoom: boolean) => void)[] = [];
  let messages = 0;
  let bytes = 0;
  let bytesInFlight = 0;
  let isBatching = false;
  let isClosed = false;
  let flushing: NodeJS.Immediate | undefined;
  let takenAt = 0;

  const isFull = () => inFlight.length >= maxInFlight || bytesInFlight >= maxInFlightBytes;
  const hasRoom = () => messages < limits.messages / 2 && bytes < limits.bytes / 2;
  const tellRoom = () => {
    if (roomless.length > 0 && (isClosed || hasRoom())) for (const tell of roomless.splice(0)) tell(!isClosed);
  };
  const taken = () => {
    bytesInFlight -= inFlight.shift() ?? 0;
    takenAt = performance.now();
    if (messages > 0) flush();
  };
  /** The most urgent that fit into one message. */
  const takeNext = (): Uint8Array[] => {
    const next: Uint8Array[] = [];
    let size = 0;
    for (const queue of queues) {
      let first = queue[0];
      while (first) {
        const isOverfull = size + first.bytes.length > maxControlMessageBytes - batchMargin;
        if (next.length > 0 && (!isBatching || isOverfull || next.length >= maxMessagesPerBatch)) return next;
        next.push(first.bytes);
        size += first.bytes.length;
        messages -= 1;
        bytes -= first.bytes.length;
        queue.shift();
        first = queue[0];
      }
    }
    return next;
  };
  const flush = () => {
    if (flushing) clearImmediate(flushing);
    flushing = undefined;
    try {
      while (messages > 0 && !isFull() && !isClosed) {
        const next = takeNext();
        const frame = next.length === 1 ? asBuffer(next[0] as Uint8Array) : batchOf(next);
        if (inFlight.length === 0) takenAt = performance.now();
        inFlight.push(frame.length);
        bytesInFlight += frame.length;
        options.write(frame, taken);
      }
    } catch (error) {
      close();
      options.onFailure(error as Error);
    }
    tellRoom();
  };
  const close = () => {
    isClosed = true;
    for (const queue of queues) queue.length = 0;
    messages = 0;
    bytes = 0;
    tellRoom();
  };

  return {
    send: (message, urgency, key) => {
      if (isClosed) return true;
      const encoded = SessionResponse.encode({ message }).finish();
      if (encoded.length > maxControlMessageBytes) return false;
      const queue = queues[classes.indexOf(urgency)] as Waiting[];
      const same = key === undefined ? undefined : queue.find((other) => other.key === key);
      bytes += encoded.length - (same?.bytes.length ?? 0);
      if (same) same.bytes = encoded;
      else {
        queue.push({ bytes: encoded, key });
        messages += 1;
      }
      if (messages > limits.messages || bytes > limits.bytes + maxControlMessageBytes) {
        close();
        options.onFailure("overflow");
      } else if (!isFull()) flushing ??= setImmediate(flush);
      return true;
    },
    room: () =>
      isClosed || hasRoom()
        ? Promise.resolve(!isClosed)
        : new Promise((resolve) => {
            roomless.push(resolve);
          }),
    batch: () => {
      flush();
      isBatching = true;
    },
    waiting: () => ({ messages, bytes }),
    blockedMs: () => (messages > 0 && isFull() ? performance.now() - takenAt : 0),
    close,
  };
};

type Waiting = { bytes: Uint8Array; readonly key: string | undefined };

const asBuffer = (bytes: Uint8Array): Buffer => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);

// A SessionResponse whose field 7 is a ResponseBatch whose field 1 repeats the encoded messages.
const batchTag = (7 << 3) | 2;
const messageTag = (1 << 3) | 2;
/** Tags and lengths of a batch: five bytes a message at most. */
const batchMargin = 16 + 5 * maxMessagesPerBatch;

/** Several encoded messages as one. */
export const batchOf = (messages: readonly Uint8Array[]): Buffer => {
  const size = messages.reduce((sum, { length }) => sum + 1 + varintSize(length) + length, 0);
  const frame = Buffer.allocUnsafe(1 + varintSize(size) + size);
  let at = putLength(frame, 0, batchTag, size);
  for (const message of messages) {
    at = putLength(frame, at, messageTag, message.length);
    frame.set(message, at);
    at += message.length;
  }
  return frame;
};
const varintSize = (value: number): number => (value < 0x80 ? 1 : value < 0x4000 ? 2 : value < 0x200000 ? 3 : 4);
const putLength = (frame: Buffer, start: number, tag: number, length: number): number => {
  let at = start;
  frame[at++] = tag;
  let rest = length;
  for (; rest >= 0x80; rest >>>= 7) frame[at++] = (rest & 0x7f) | 0x80;
  frame[at++] = rest;
  return at;
};
