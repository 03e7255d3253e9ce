// One writer a digest at a time in this process, and how a newer one takes over from an older one that may wait for ever.
// Other processes are not its matter: they write files of their own.
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";

/** How long a writer goes on after another one came for the same digest. */
const turnMs = 1_000;

export type Writer = {
  /** The bytes, ended with upload_conflict when a newer writer of the digest takes over, even while no byte comes. */
  watched(bytes: AsyncIterable<Uint8Array>): AsyncIterable<Uint8Array>;
  /** Waits for its end, and asks for it after turnMs. */
  giveWay(): Promise<void>;
  end(): void;
};

/**
 * An agent that lost its connection comes back while the old request still waits for bytes that never come: after a while the
 * newer one wins. Not at once: two agents with the same content would end each other for ever before either wrote a byte
 * (seen with six). So each writes for turnMs at least, goes on where the other was, and the upload ends.
 */
export const takeOver = async (writers: Map<string, Writer>, sha256: string): Promise<Writer> => {
  for (let older = writers.get(sha256); older !== undefined; older = writers.get(sha256)) await older.giveWay();
  const ended = Promise.withResolvers<void>();
  const superseded = Promise.withResolvers<never>();
  superseded.promise.catch(() => {});
  const writer: Writer = {
    watched: async function* (bytes) {
      const source = bytes[Symbol.asyncIterator]();
      try {
        for (;;) {
          const next = await Promise.race([source.next(), superseded.promise]);
          if (next.done) return;
          yield next.value;
        }
      } finally {
        // Not awaited: a source that waits for its next byte would keep this one waiting too.
        source.return?.()?.catch(() => {});
      }
    },
    giveWay: async () => {
      const timer = setTimeout(
        () =>
          superseded.reject(
            new RenderplaneError("upload_conflict", `A newer request continues the upload of ${sha256}.`, {
              retryAfterMs: turnMs,
            }),
          ),
        turnMs,
      );
      await ended.promise;
      clearTimeout(timer);
    },
    end: () => ended.resolve(),
  };
  writers.set(sha256, writer);
  return writer;
};
