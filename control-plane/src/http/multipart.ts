// Takes multipart/form-data apart while it arrives: the part `job` is JSON, every part with a filename is media and flows
// straight into the artifact store. It judges names, counts and types; what the job says is checked by others.
// Invariant: memory holds one job text and one chunk of media, and a body that breaks off submits nothing.
import type { IncomingMessage } from "node:http";
import { Busboy, type BusboyFileStream } from "@fastify/busboy";
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { maxJobBodyBytes, maxMediaFileBytes, maxMediaFiles } from "@renderplane/proto/kernel/limits.ts";
import type { ArtifactStore } from "../artifacts/artifact-store.ts";
import { parseJson, readBytes } from "./body.ts";
import { checkMediaName, type MediaGroup, mediaRefused, sniffBytes, sniffMedia, storedName } from "./media.ts";
import type { Upload } from "./operations.ts";

export type UploadedMedia = Upload & { readonly original: string; readonly group: MediaGroup };
type Received = Omit<UploadedMedia, "name"> & { readonly extension: string };
export type MultipartSubmission = { readonly body: unknown; readonly media: readonly UploadedMedia[] };

export const readMultipart = async (
  incoming: IncomingMessage,
  artifacts: Pick<ArtifactStore, "ingest" | "head">,
  limits: { readonly fileBytes: number; readonly files: number } = {
    fileBytes: maxMediaFileBytes,
    files: maxMediaFiles,
  },
): Promise<MultipartSubmission> => {
  const form = openForm(incoming);
  const originals = new Set<string>();
  const open = new Set<BusboyFileStream>();
  const texts: Buffer[] = [];
  const files: Promise<Received | undefined>[] = [];

  const takeFile = async (field: string, stream: BusboyFileStream, name: string): Promise<Received | undefined> => {
    if (field === "job") {
      texts.push(await readBytes(stream, maxJobBodyBytes));
      return undefined;
    }
    checkMediaName(name, originals);
    originals.add(name);
    if (originals.size > limits.files)
      throw new RenderplaneError("body_too_large", `A job takes at most ${limits.files} files; there are more.`);
    const stored = await artifacts.ingest(stream, limits.fileBytes).catch((error: unknown) => {
      if (error instanceof RenderplaneError && error.code === "body_too_large")
        throw new RenderplaneError("body_too_large", `The file ${name} is larger than ${limits.fileBytes} bytes.`, {
          fields: mediaRefused(name, `is larger than ${limits.fileBytes} bytes`).fields,
        });
      throw error;
    });
    const head = stored.sizeBytes === 0 ? new Uint8Array() : await artifacts.head(stored.sha256, sniffBytes);
    return { ...stored, original: name, ...(await sniffMedia(name, head, stored.sizeBytes)) };
  };

  try {
    await new Promise<void>((resolve, reject) => {
      let isOver = false;
      const leave = (error: unknown) => {
        isOver = true;
        incoming.unpipe(form);
        reject(error);
      };
      form.on("file", (field, stream, name) => {
        // A chunk that the parser had already taken in may still bring parts.
        if (isOver) return stream.resume();
        open.add(stream);
        // The parser reports a part that breaks off on the part itself; the form's own error says the same.
        stream.on("error", () => {});
        const taken = takeFile(field, stream, unescaped(name)).finally(() => open.delete(stream));
        taken.catch(leave);
        files.push(taken);
      });
      form.on("field", (field, value, _nameCut, isCut) => {
        if (field !== "job") leave(unexpectedPart(field));
        else if (isCut)
          leave(new RenderplaneError("body_too_large", `The part job is larger than ${maxJobBodyBytes} bytes.`));
        else texts.push(Buffer.from(value));
      });
      form.on("partsLimit", () => leave(new RenderplaneError("body_too_large", "The body has too many parts.")));
      form.on("error", (error) => leave(malformed(error)));
      form.on("finish", () => resolve());
      incoming.once("error", (error) => leave(malformed(error)));
      incoming.once("close", () => {
        if (!incoming.complete) leave(malformed(undefined));
      });
      incoming.pipe(form);
    });
    const received = (await Promise.all(files)).filter((file) => file !== undefined);
    const [text, second] = texts;
    if (text === undefined || second !== undefined)
      throw new RenderplaneError(
        "malformed_body",
        `The form needs exactly one part named job with the JSON of the job, got ${texts.length}.`,
      );
    return { body: parseJson(text), media: named(received) };
  } catch (error) {
    // Ends the writers that still wait for bytes, so that no partial file stays open.
    for (const stream of open) stream.destroy(error instanceof Error ? error : new Error(String(error)));
    await Promise.allSettled(files);
    throw error;
  }
};

/** Files end in any order; names are given in the order of the form, so that a repeated submission is the same submission. */
const named = (received: readonly Received[]): UploadedMedia[] => {
  const taken = new Set<string>();
  return received.map(({ extension, ...file }) => {
    const name = storedName(file.original, extension, taken);
    taken.add(name);
    return { ...file, name };
  });
};

/** Senders write a quote and line ends inside a filename as %22, %0D and %0A, and nothing else in that way (WHATWG). */
const unescaped = (name: string): string =>
  name.replace(/%(22|0D|0A)/gi, (_all, code: string) => String.fromCharCode(Number.parseInt(code, 16)));

const openForm = (incoming: IncomingMessage) => {
  try {
    return new Busboy({
      headers: { ...incoming.headers, "content-type": incoming.headers["content-type"] ?? "" },
      // Folders in names are refused below; stripping them quietly would hide what was sent.
      preservePath: true,
      isPartAFile: (_field, _type, name) => name !== undefined,
      limits: {
        fieldSize: maxJobBodyBytes,
        fieldNameSize: 100,
        headerPairs: 20,
        headerSize: 4_096,
        parts: 2 * maxMediaFiles,
      },
    });
  } catch (error) {
    throw malformed(error);
  }
};

const malformed = (cause: unknown) =>
  new RenderplaneError(
    "malformed_body",
    "The multipart body is broken or ended before it was complete; nothing was submitted.",
    {
      next: "Send it again; the files may be sent again too.",
      cause,
    },
  );

const unexpectedPart = (field: string) =>
  new RenderplaneError(
    "invalid_request",
    `The form part ${JSON.stringify(field)} is not known: there is one part job (JSON), and every other part is a file with a filename.`,
  );
