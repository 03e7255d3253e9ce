// Moves one file over HTTP: down with Range, up with Upload-Offset, each resumed where it broke and verified at its end.
// Knows the protocol of /artifacts/<sha256>; what the addresses mean and who signs them is the control plane's.
// Keeps: a file counts only when size and sha256 are right; while bytes keep moving it is patient, without them it gives up.
import { createHash } from "node:crypto";
import { createReadStream, createWriteStream } from "node:fs";
import { rm, stat, truncate } from "node:fs/promises";
import { request as httpRequest, type IncomingMessage } from "node:http";
import { request as httpsRequest } from "node:https";
import { Transform } from "node:stream";
import { pipeline } from "node:stream/promises";
import { setTimeout as pause } from "node:timers/promises";
import { isLocalFault } from "../domain/errno.ts";
import { createBackoff } from "./backoff.ts";
import { StageFailure } from "./contract.ts";

/** Without a byte for so long the connection counts as dead and is dialled anew. */
const idleMs = 20_000;
/** Without a byte for so long, over all tries, the transfer fails: longer than a restart of the control plane takes. */
export const defaultPatienceMs = 60_000;
const pauses = { firstMs: 100, maxMs: 5_000 };
/** Wrong digests in a row before it is a fault of the source and not of the way. */
const maxWrongDigests = 2;

export type TransferOptions = { readonly signal: AbortSignal; readonly patienceMs?: number };
type File = { readonly name: string; readonly sha256: string; readonly sizeBytes: number };

/** The signed address is not good any more: its time is over, or the secret behind it has changed. */
export class AddressRefused extends StageFailure {}

/** Leaves a whole, verified file at `path`; goes on with what is there already. */
export const download = async (url: string, file: File, path: string, options: TransferOptions): Promise<void> => {
  let wrongDigests = 0;
  await persist(`download ${file.name}`, options, async (moved) => {
    let offset = (await stat(path).catch(() => undefined))?.size ?? 0;
    if (offset > file.sizeBytes) {
      await truncate(path, 0);
      offset = 0;
    }
    if (offset < file.sizeBytes || file.sizeBytes === 0) {
      const headers: Record<string, string> = offset > 0 ? { range: `bytes=${offset}-` } : {};
      const answer = await ask("GET", url, { headers, signal: options.signal });
      if (answer.statusCode === 416) await truncate(path, 0);
      if (answer.statusCode !== 200 && answer.statusCode !== 206) throw await refusal(answer, file.name, "read");
      // A server without ranges answers 200 with the whole file.
      if (answer.statusCode === 206 && !answer.headers["content-range"]?.startsWith(`bytes ${offset}-`)) {
        answer.destroy();
        throw new Error(`asked for bytes from ${offset}, got ${answer.headers["content-range"] ?? "no range"}`);
      }
      const start = answer.statusCode === 206 ? offset : 0;
      const sink = createWriteStream(path, { flags: start > 0 ? "r+" : "w", start, mode: 0o600 });
      await pipeline(answer, bounded(file, start, moved), sink, { signal: options.signal });
    }
    const size = (await stat(path)).size;
    if (size !== file.sizeBytes) throw new Error(`the transfer ended at ${size} of ${file.sizeBytes} bytes`);
    const sha256 = await digestOf(path, options.signal);
    if (sha256 === file.sha256) return;
    await rm(path, { force: true });
    wrongDigests += 1;
    const text = `${file.name} arrived with sha256 ${sha256.slice(0, 12)}…, expected ${file.sha256.slice(0, 12)}…`;
    if (wrongDigests >= maxWrongDigests)
      throw new StageFailure("transfer_failed", `${text}, ${wrongDigests} times. The stored file is damaged.`);
    throw new Error(text);
  });
};

/** Answers when the server holds the whole file and has verified it. */
export const upload = async (url: string, file: File, path: string, options: TransferOptions): Promise<void> => {
  let wrongDigests = 0;
  await persist(`upload ${file.name}`, options, async (moved) => {
    const state = await ask("HEAD", url, { signal: options.signal });
    state.resume();
    if (state.statusCode === 200 && state.headers["upload-complete"] === "?1") return;
    if ((state.statusCode ?? 0) >= 300 && state.statusCode !== 404) throw await refusal(state, file.name, "stored");
    const known = Number(state.headers["upload-offset"] ?? 0);
    const offset = Number.isSafeInteger(known) && known > 0 && known <= file.sizeBytes ? known : 0;
    const body =
      offset < file.sizeBytes ? createReadStream(path, { start: offset, end: file.sizeBytes - 1 }) : undefined;
    const answer = await ask("PUT", url, {
      headers: {
        "upload-offset": String(offset),
        "content-length": String(file.sizeBytes - offset),
        "content-type": "application/octet-stream",
      },
      body,
      sent: (bytes) => moved(offset + bytes),
      signal: options.signal,
    });
    if (answer.statusCode === 422) {
      wrongDigests += 1;
      if (wrongDigests < maxWrongDigests) {
        answer.resume();
        throw new Error(`${file.name} was stored with a wrong digest`);
      }
      throw new StageFailure("transfer_failed", `${file.name} changed while it was stored. Render it again.`);
    }
    // 409: the server has more or less than its HEAD said; the next try asks again.
    if ((answer.statusCode ?? 0) >= 300) throw await refusal(answer, file.name, "stored");
    answer.resume();
  });
};

export const digestOf = async (path: string, signal?: AbortSignal): Promise<string> => {
  const hash = createHash("sha256");
  await pipeline(createReadStream(path, { highWaterMark: 1024 * 1024 }), hash, signal ? { signal } : {});
  return hash.digest("hex");
};

/** Repeats `act` with backoff until it succeeds, fails for good, or no byte has moved for the patience. */
const persist = async (
  what: string,
  options: TransferOptions,
  act: (moved: (position: number) => void) => Promise<void>,
): Promise<void> => {
  const patienceMs = options.patienceMs ?? defaultPatienceMs;
  const nextPauseMs = createBackoff(pauses);
  let movedAt = performance.now();
  // Only new ground counts: a transfer that breaks at the same byte every time must end.
  let highest = 0;
  for (;;) {
    options.signal.throwIfAborted();
    try {
      return await act((position) => {
        if (position <= highest) return;
        highest = position;
        movedAt = performance.now();
      });
    } catch (error) {
      options.signal.throwIfAborted();
      if (error instanceof StageFailure || isLocalFault(error)) throw error;
      const waitMs = nextPauseMs();
      if (performance.now() + waitMs - movedAt > patienceMs) {
        const cause = error instanceof Error ? error.message : String(error);
        throw new StageFailure(
          "transfer_failed",
          `Could not ${what}: ${cause}. No byte moved for ${Math.round(patienceMs / 1000)} s; check that this host reaches the control plane's address.`,
        );
      }
      await pause(waitMs, undefined, { signal: options.signal });
    }
  }
};

/** Statuses that a repetition cannot cure; the rest (5xx, 408, 409, 416, 425, 429) is tried again. */
const finalStatuses: readonly number[] = [400, 401, 403, 404, 405, 410, 413, 415];

const refusal = async (answer: IncomingMessage, name: string, act: "read" | "stored"): Promise<Error> => {
  answer.resume();
  const status = answer.statusCode ?? 0;
  if (!finalStatuses.includes(status)) return new Error(`the control plane answered ${status}`);
  const what = `${name} cannot be ${act}: the control plane answered ${status}.`;
  if (status === 403)
    return new AddressRefused(
      "transfer_failed",
      `${what} The signed address has expired; a new attempt gets a new one.`,
    );
  return new StageFailure("transfer_failed", `${what} Submit the file again.`);
};

/** A longer answer is another file: a retry would only fetch it again. */
const bounded = (file: File, start: number, moved: (position: number) => void): Transform => {
  let position = start;
  return new Transform({
    transform(chunk: Buffer, _encoding, done) {
      position += chunk.length;
      moved(position);
      if (position <= file.sizeBytes) done(null, chunk);
      else
        done(
          new StageFailure("transfer_failed", `${file.name} is longer than the ${file.sizeBytes} bytes it should have`),
        );
    },
  });
};

const ask = (
  method: "GET" | "HEAD" | "PUT",
  url: string,
  options: {
    readonly headers?: Readonly<Record<string, string>>;
    readonly body?: ReturnType<typeof createReadStream> | undefined;
    readonly sent?: (bytes: number) => void;
    readonly signal: AbortSignal;
  },
): Promise<IncomingMessage> =>
  new Promise((resolve, reject) => {
    const send = url.startsWith("https:") ? httpsRequest : httpRequest;
    const call = send(url, { method, headers: { ...options.headers }, signal: options.signal, timeout: idleMs });
    call.once("response", (answer) => {
      // An early answer (409, 403) ends the sending; what is left of the body is not wanted.
      if (!call.writableFinished) {
        options.body?.destroy();
        answer.once("close", () => call.destroy());
      }
      resolve(answer);
    });
    call.once("timeout", () => call.destroy(new Error(`no byte for ${idleMs / 1000} s`)));
    // For good: a second error of one request must not end the process.
    call.on("error", (error) => {
      options.body?.destroy();
      reject(error);
    });
    if (!options.body) {
      call.end();
      return;
    }
    let bytes = 0;
    options.body.on("data", (chunk) => {
      bytes += chunk.length;
      options.sent?.(bytes);
    });
    options.body.once("error", (error) => call.destroy(error));
    options.body.pipe(call);
  });
