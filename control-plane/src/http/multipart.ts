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
  const files: Promise<UploadedMedia | undefined>[] = [];
  const names = new Set<string>();

  const takeFile = async (
    field: string,
    stream: BusboyFileStream,
    name: string,
  ): Promise<UploadedMedia | undefined> => {
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
    const { mediaType, group, extension } = await sniffMedia(name, head, stored.sizeBytes);
    const safe = storedName(name, extension, names);
    names.add(safe);
    return { ...stored, name: safe, original: name, mediaType, group };
  };

  try {
    await new Promise<void>((resolve, reject) => {
      const leave = (error: unknown) => {
        incoming.unpipe(form);
        reject(error);
      };
      form.on("file", (field, stream, name) => {
        open.add(stream);
        // The parser reports a part that breaks off on the part itself; the form's own error says the same.
        stream.on("error", () => {});
        const taken = takeFile(field, stream, name).finally(() => open.delete(stream));
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
    const media = (await Promise.all(files)).filter((file) => file !== undefined);
    const [text, second] = texts;
    if (text === undefined || second !== undefined)
      throw new RenderplaneError(
        "malformed_body",
        `The form needs exactly one part named job with the JSON of the job, got ${texts.length}.`,
      );
    return { body: parseJson(text), media };
  } catch (error) {
    // Ends the writers that still wait for bytes, so that no partial file stays open.
    for (const stream of open) stream.destroy(error instanceof Error ? error : new Error(String(error)));
    await Promise.allSettled(files);
    throw error;
  }
};

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
