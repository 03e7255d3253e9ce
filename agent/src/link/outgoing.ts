// What waits to be written to the session's stream, in two classes: answers and heartbeats in their order, because leases hang on them
// and a heartbeat must not name what was not answered yet; then progress. Streams queue without limit when the answer of write() is
// ignored; this queue is bounded and says what it drops.
//   protocol 1   one message a write                protocol 2   what waits together goes in one batch
// At the bound progress is dropped first (the newest comes again); then the stream is closed, and resumed later.
import { SessionRequest } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import { maxControlMessageBytes, maxMessagesPerBatch, maxQueuedMessages } from "@renderplane/proto/kernel/limits.ts";

export type Outgoing = NonNullable<SessionRequest["message"]>;

export type OutgoingQueue = {
  /** A message takes the place of the one that still waits under its key, at the end: it is news. */
  send(message: Outgoing, key?: string): void;
  /** The stream can take more. */
  resume(): void;
  /** Several messages in one from now on. */
  allowBatches(): void;
  /** Writes what waits, then nothing more. */
  flush(): void;
  close(): void;
};

type Waiting = { readonly message: SessionRequest; readonly key: string | undefined; readonly bytes: number };

/** Tag and length of one message inside a batch. */
const framingBytes = 8;

export const createOutgoing = (options: {
  /** False: the stream is full until `resume`. */
  readonly write: (message: SessionRequest) => boolean;
  readonly onOverflow: () => void;
  readonly max?: number;
}): OutgoingQueue => {
  const max = options.max ?? maxQueuedMessages;
  let first: Waiting[] = [];
  let progress: Waiting[] = [];
  let isFull = false;
  let isClosed = false;
  let isBatching = false;
  let turn: NodeJS.Immediate | undefined;

  const takeBatch = (): SessionRequest[] => {
    const batch: SessionRequest[] = [];
    let bytes = 0;
    for (const queue of [first, progress])
      for (let next = queue[0]; next; next = queue[0]) {
        bytes += next.bytes + framingBytes;
        const isOver = batch.length >= (isBatching ? maxMessagesPerBatch : 1) || bytes > maxControlMessageBytes;
        if (isOver && batch.length > 0) return batch;
        batch.push(next.message);
        queue.shift();
      }
    return batch;
  };
  const flush = () => {
    clearImmediate(turn);
    turn = undefined;
    while (!isClosed && !isFull && first.length + progress.length > 0) {
      const batch = takeBatch();
      const [only] = batch;
      const message: SessionRequest | undefined =
        batch.length > 1 ? { message: { $case: "batch", value: { messages: batch } } } : only;
      if (message) isFull = !options.write(message);
    }
  };
  const close = () => {
    isClosed = true;
    clearImmediate(turn);
    first = [];
    progress = [];
  };
  return {
    send: (value, key) => {
      if (isClosed) return;
      const message: SessionRequest = { message: value };
      const bytes = SessionRequest.encode(message).finish().length;
      const queue = value.$case === "progress" ? progress : first;
      const same = key === undefined ? -1 : queue.findIndex((waiting) => waiting.key === key);
      if (same >= 0) queue.splice(same, 1);
      if (first.length + progress.length >= max && progress.shift() === undefined) {
        close();
        options.onOverflow();
        return;
      }
      queue.push({ message, key, bytes });
      // What is said in the same turn of the loop goes together.
      turn ??= setImmediate(flush);
    },
    resume: () => {
      isFull = false;
      flush();
    },
    allowBatches: () => {
      isBatching = true;
    },
    flush,
    close,
  };
};
