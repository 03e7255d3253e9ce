// A queue in front of a stream that may not take more now. Streams queue without limit when the answer of write() is ignored;
// this one holds at most `max` messages and then says so once. Urgent messages overtake; a keyed message replaces the one that
// still waits under its key (the newest acknowledgement or progress is the only one worth sending).

export type BoundedWriter<M> = {
  send(message: M, options?: { readonly urgent?: boolean; readonly key?: string }): void;
  /** Messages that wait for the peer. */
  depth(): number;
  /** How long the peer has taken nothing while something waits; 0 when nothing waits. */
  blockedMs(): number;
  /** Drops what waits; later sends do nothing. */
  close(): void;
};

export const boundedWriter = <M>(options: {
  /** False: the stream is full, nothing more until `drain`. */
  readonly write: (message: M) => boolean;
  /** Calls back at every `drain` of the stream. */
  readonly onDrain: (resume: () => void) => void;
  readonly max: number;
  /** Called once, when message max + 1 would wait; everything that waited is dropped. */
  readonly onOverflow: () => void;
}): BoundedWriter<M> => {
  type Waiting = { message: M; readonly key: string | undefined };
  let urgent: Waiting[] = [];
  let plain: Waiting[] = [];
  let isFull = false;
  let isClosed = false;
  let fullSince = 0;

  const write = (message: M) => {
    if (options.write(message)) return;
    isFull = true;
    fullSince = performance.now();
  };
  const close = () => {
    isClosed = true;
    urgent = [];
    plain = [];
  };
  options.onDrain(() => {
    isFull = false;
    for (let next = urgent.shift() ?? plain.shift(); next && !isClosed; next = urgent.shift() ?? plain.shift()) {
      write(next.message);
      if (isFull) return;
    }
  });
  return {
    send: (message, { urgent: isUrgent = false, key } = {}) => {
      if (isClosed) return;
      if (!isFull) return write(message);
      const queue = isUrgent ? urgent : plain;
      const same = key === undefined ? undefined : queue.find((waiting) => waiting.key === key);
      if (same) {
        same.message = message;
        return;
      }
      if (urgent.length + plain.length >= options.max) {
        close();
        options.onOverflow();
        return;
      }
      queue.push({ message, key });
    },
    depth: () => urgent.length + plain.length,
    blockedMs: () => (isFull && urgent.length + plain.length > 0 ? performance.now() - fullSince : 0),
    close,
  };
};
