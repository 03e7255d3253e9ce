// What a file is by its first bytes, and the one FFmpeg demuxer that may open it. Names and claimed types are never asked:
// a playlist called clip.mp4 makes FFmpeg open other files, so the demuxer is forced and lists have no row in this table.
// Whether the file decodes is for ffprobe; this only decides whether ffprobe may look.

export type MediaType = {
  readonly media: "video" | "picture";
  /** For `-f`. */
  readonly demuxer: string;
  readonly extension: string;
  readonly mediaType: string;
};
export type Sniffed =
  | { readonly ok: true; readonly type: MediaType }
  | {
      readonly ok: false;
      readonly reason: "empty" | "list" | "text" | "sound" | "unsupported" | "unknown";
      readonly what: string;
    };

/** Enough for the third packet of a transport stream and for every list's first line. */
export const sniffBytes = 4_096;

const type = (media: MediaType["media"], demuxer: string, extension: string, mediaType: string): MediaType => ({
  media,
  demuxer,
  extension,
  mediaType,
});
export const mediaTypes = {
  mp4: type("video", "mov", "mp4", "video/mp4"),
  matroska: type("video", "matroska", "mkv", "video/matroska"),
  transport: type("video", "mpegts", "ts", "video/mp2t"),
  avi: type("video", "avi", "avi", "video/vnd.avi"),
  program: type("video", "mpeg", "mpg", "video/mpeg"),
  gif: type("video", "gif", "gif", "image/gif"),
  jpeg: type("picture", "jpeg_pipe", "jpg", "image/jpeg"),
  png: type("picture", "png_pipe", "png", "image/png"),
  webp: type("picture", "webp_pipe", "webp", "image/webp"),
} as const;
const { mp4, matroska, transport, avi, program, gif, jpeg, png, webp } = mediaTypes;

/** For messages; the order is that of usefulness. */
export const acceptedWords = "MP4, MOV, Matroska, WebM, MPEG-TS, AVI, MPEG or GIF video, or JPEG, PNG or WebP pictures";

const listStarts: readonly (readonly [RegExp, string])[] = [
  [/^#EXTM3U/i, "an HLS playlist"],
  [/^ffconcat/i, "a concat list"],
  [/^file\s+\S/i, "a concat list"],
  [/^\[playlist\]/i, "a playlist"],
  [/^(<\?xml[^>]*>\s*)?(<!--[\s\S]*?-->\s*)?<MPD[\s>]/i, "a DASH manifest"],
  [/^v=0\r?\n/, "an SDP description"],
  [/^(<\?xml[^>]*>\s*)?<svg[\s>]/i, "an SVG drawing"],
];
/** Brands of still pictures and of sound in the ISO container. */
const pictureBrands = new Set(["heic", "heix", "heim", "heis", "hevc", "hevx", "mif1", "msf1", "avif", "avis", "crx "]);
const soundBrands = new Set(["M4A ", "M4B ", "M4P "]);
const movAtoms = new Set(["moov", "mdat", "wide", "free", "skip", "pnot"]);

export const sniffMedia = (head: Buffer): Sniffed => {
  if (head.length === 0) return { ok: false, reason: "empty", what: "empty (0 bytes)" };
  const text = leadingText(head);
  if (text !== undefined) {
    for (const [pattern, what] of listStarts) if (pattern.test(text)) return { ok: false, reason: "list", what };
    return { ok: false, reason: "text", what: "text" };
  }
  const found = typeOf(head);
  if (found !== undefined)
    return typeof found === "string" ? { ok: false, ...refusalOf(found) } : { ok: true, type: found };
  return { ok: false, reason: "unknown", what: "of a type that is not known, or damaged at its beginning" };
};

const refusalOf = (what: string): { readonly reason: "sound" | "unsupported"; readonly what: string } =>
  what === "sound" ? { reason: "sound", what: "sound without a picture" } : { reason: "unsupported", what };

/** A type that is accepted, or in words one that is known and is not. */
const typeOf = (head: Buffer): MediaType | string | undefined => {
  const at = (from: number, to: number): string => head.toString("latin1", from, to);
  const starts = (...bytes: number[]): boolean => bytes.every((byte, index) => head[index] === byte);
  if (at(4, 8) === "ftyp") {
    const brand = at(8, 12);
    if (pictureBrands.has(brand)) return "a HEIC, AVIF or RAW picture";
    return soundBrands.has(brand) ? "sound" : mp4;
  }
  if (movAtoms.has(at(4, 8))) return mp4;
  if (starts(0x1a, 0x45, 0xdf, 0xa3)) return matroska;
  if (head[0] === 0x47 && head[188] === 0x47 && (head.length < 377 || head[376] === 0x47)) return transport;
  if (at(0, 4) === "RIFF") {
    const form = at(8, 12);
    if (form === "AVI ") return avi;
    if (form === "WEBP") return webp;
    return form === "WAVE" ? "sound" : undefined;
  }
  if (starts(0, 0, 1, 0xba)) return program;
  if (starts(0xff, 0xd8, 0xff)) return jpeg;
  if (starts(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a)) return png;
  if (at(0, 4) === "GIF8") return gif;
  if (at(0, 4) === "fLaC" || at(0, 4) === "OggS" || at(0, 3) === "ID3") return "sound";
  if (head[0] === 0xff && ((head[1] ?? 0) & 0xe0) === 0xe0) return "sound";
  if (at(0, 2) === "BM") return "a BMP picture";
  if (at(0, 4) === "II*\0" || at(0, 4) === "MM\0*") return "a TIFF picture";
  return at(0, 4) === "%PDF" ? "a PDF document" : undefined;
};

/** The beginning as text when it has no byte that only binary files have; a byte order mark and blanks are skipped. */
const leadingText = (head: Buffer): string | undefined => {
  if (head[0] === 0xff && head[1] === 0xfe) return head.toString("utf16le", 2).trimStart();
  for (const byte of head) if (byte < 9 || (byte > 13 && byte < 32 && byte !== 27)) return undefined;
  // A cut or foreign encoding is still no media file: no accepted type begins with 4 KB without a control byte.
  return head
    .toString("utf8")
    .replace(/^\ufeff/, "")
    .trimStart();
};
