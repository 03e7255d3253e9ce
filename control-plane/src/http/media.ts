// Judges one uploaded file by its name and its first bytes, and gives it the name under which it is stored.
// Content decides, never the extension or the Content-Type that the sender claims; whether it decodes is the agent's to find.
// Invariant: what passes here is video, picture or sound, and never a text that makes FFmpeg open something else.
import { type FieldError, RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { artifactNamePattern } from "@renderplane/proto/kernel/limits.ts";
import { fileTypeFromBuffer } from "file-type";

export type MediaGroup = "video" | "picture" | "audio";

/** Enough for every signature that is looked for, MPEG-TS and Matroska included. */
export const sniffBytes = 4_100;
/** What file systems can hold; a longer name is refused. */
export const maxMediaNameBytes = 255;

/** Throws media_refused with a sentence when a sender's file name cannot be taken. */
export const checkMediaName = (name: string, taken: ReadonlySet<string>): void => {
  const refuse = (reason: string) => mediaRefused(name, reason);
  if (name === "") throw refuse("has no file name; give the part a filename");
  if (!name.isWellFormed() || name.includes("\ufffd")) throw refuse("has a name that is not UTF-8");
  if (/[\p{Cc}\u2028\u2029]/u.test(name)) throw refuse("has control characters in its name; rename it");
  if (/[/\\]/.test(name) || name === "." || name === "..")
    throw refuse("has a path in its name; send the plain file name without folders");
  const bytes = Buffer.byteLength(name);
  if (bytes > maxMediaNameBytes)
    throw refuse(`has a name of ${bytes} bytes, the limit is ${maxMediaNameBytes}; shorten it`);
  if (taken.has(name)) throw refuse("was sent twice; every file needs its own name");
};

/** A name of the artifact store's alphabet that nobody has yet: the sender's own when it fits, else as close as possible. */
export const storedName = (original: string, extension: string, taken: ReadonlySet<string>): string => {
  if (artifactNamePattern.test(original) && !taken.has(original)) return original;
  const dot = original.lastIndexOf(".");
  const stem = (dot > 0 ? original.slice(0, dot) : original)
    .normalize("NFKD")
    .replace(/\p{M}/gu, "")
    .replace(/[^A-Za-z0-9._-]+/g, "-")
    .replace(/^[^A-Za-z0-9]+|[^A-Za-z0-9]+$/g, "")
    .slice(0, 80);
  const ending = /^[A-Za-z0-9]{1,8}$/.test(original.slice(dot + 1)) && dot > 0 ? original.slice(dot + 1) : extension;
  for (let n = 1; ; n++) {
    const name = `${stem === "" ? "media" : stem}${n === 1 && stem !== "" ? "" : `-${n}`}.${ending}`;
    if (!taken.has(name)) return name;
  }
};

/** What the file is, from its first bytes. Throws media_refused. */
export const sniffMedia = async (
  name: string,
  head: Uint8Array,
  sizeBytes: number,
): Promise<{ readonly mediaType: string; readonly group: MediaGroup; readonly extension: string }> => {
  if (sizeBytes === 0) throw mediaRefused(name, "is empty (0 bytes)");
  const text = leadingText(head);
  for (const [pattern, what] of listings)
    if (text !== undefined && pattern.test(text))
      throw mediaRefused(name, `is ${what}, not media; lists that name other files are never opened, send the files`);
  const found = await fileTypeFromBuffer(head);
  const kept = found === undefined ? undefined : accepted[found.mime];
  if (found !== undefined && kept !== undefined) return { group: kept[0], mediaType: kept[1], extension: found.ext };
  if (found !== undefined) throw mediaRefused(name, `is ${found.mime}; ${acceptedWords}`);
  if (text !== undefined) throw mediaRefused(name, "is text, not media, whatever its extension says");
  throw mediaRefused(name, `is of an unknown type or damaged at its beginning; ${acceptedWords}`);
};

/** The same list as the agent's, which opens each with one forced demuxer. */
const acceptedWords = "MP4, MOV, Matroska, WebM, MPEG-TS, AVI, MPEG, JPEG, PNG, WebP, GIF and sound are accepted";

/** By sniffed type: the group and the type that is kept. Left out on purpose: SVG and other texts, RAW pictures, documents. */
const accepted: { readonly [mime: string]: readonly [MediaGroup, string] } = {
  "video/mp4": ["video", "video/mp4"],
  "video/x-m4v": ["video", "video/mp4"],
  "video/quicktime": ["video", "video/quicktime"],
  "video/3gpp": ["video", "video/3gpp"],
  "video/3gpp2": ["video", "video/3gpp"],
  "video/matroska": ["video", "video/matroska"],
  "video/webm": ["video", "video/webm"],
  "video/vnd.avi": ["video", "video/vnd.avi"],
  "video/MP1S": ["video", "video/mpeg"],
  "video/MP2P": ["video", "video/mpeg"],
  "video/mp2t": ["video", "video/mp2t"],
  "image/gif": ["picture", "image/gif"],
  "image/jpeg": ["picture", "image/jpeg"],
  "image/png": ["picture", "image/png"],
  "image/webp": ["picture", "image/webp"],
  "audio/mpeg": ["audio", "audio/mpeg"],
  "audio/wav": ["audio", "audio/wav"],
  "audio/flac": ["audio", "audio/flac"],
  "audio/ogg": ["audio", "audio/ogg"],
  "audio/ogg; codecs=opus": ["audio", "audio/ogg"],
  "audio/x-m4a": ["audio", "audio/mp4"],
};

/** Texts that FFmpeg would follow to other files or hosts, named so that the sender understands the refusal. */
const listings: readonly (readonly [RegExp, string])[] = [
  [/^#EXTM3U/, "a playlist (HLS or M3U)"],
  [/^\s*ffconcat/i, "an FFmpeg concat list"],
  [/^\s*file\s+['"]?\S/i, "an FFmpeg concat list"],
  [/^[\s\S]{0,2000}<MPD[\s>]/, "a playlist (DASH)"],
  [/^[\s\S]{0,2000}<(?:smil|SmoothStreamingMedia|asx)[\s>]/i, "a playlist"],
  [/^\s*\[playlist\]/i, "a playlist (PLS)"],
  [/^v=0\r?\n/, "a session description (SDP)"],
];

/** The beginning as text when it is text: valid UTF-8 (a character may be cut at the end) without binary control characters. */
const leadingText = (head: Uint8Array): string | undefined => {
  const text = new TextDecoder("utf-8").decode(head, { stream: true }).replace(/^\ufeff/, "");
  // biome's rule against control characters in patterns is right for prose and wrong here, hence the code points.
  for (const letter of text) {
    const code = letter.codePointAt(0) ?? 0;
    if (code === 0xfffd || (code < 32 && code !== 9 && code !== 10 && code !== 13)) return undefined;
  }
  return text;
};

export const mediaRefused = (name: string, reason: string): RenderplaneError => {
  const field: FieldError = {
    pointer: `/media/${name.replaceAll("~", "~0").replaceAll("/", "~1")}`,
    detail: `${shown(name)} ${reason}`,
  };
  return new RenderplaneError("media_refused", `The file ${field.detail}.`, { fields: [field] });
};

/** Quoted, with control characters visible, and bounded: it is printed in terminals. */
const shown = (name: string): string => {
  const text = JSON.stringify(name.length > 100 ? `${name.slice(0, 97)}...` : name);
  return text.replace(
    /[\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g,
    (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
};
