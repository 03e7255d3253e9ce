// First bytes of every type that is accepted, and of what must never reach FFmpeg.
import { describe, expect, test } from "vitest";
import { sniffMedia } from "./media-type.ts";

const binary = (...parts: (string | number[])[]): Buffer =>
  Buffer.concat([
    ...parts.map((part) => (typeof part === "string" ? Buffer.from(part, "latin1") : Buffer.from(part))),
    Buffer.alloc(400),
  ]);
const transport = Buffer.alloc(600);
for (const at of [0, 188, 376]) transport[at] = 0x47;

describe("sniffMedia", () => {
  const accepted: readonly (readonly [string, Buffer, string, string])[] = [
    ["MP4", binary([0, 0, 0, 24], "ftypisom"), "mov", "mp4"],
    ["old QuickTime", binary([0, 0, 0, 8], "wide"), "mov", "mp4"],
    ["Matroska and WebM", binary([0x1a, 0x45, 0xdf, 0xa3]), "matroska", "mkv"],
    ["transport stream", transport, "mpegts", "ts"],
    ["AVI", binary("RIFF", [1, 2, 3, 4], "AVI LIST"), "avi", "avi"],
    ["program stream", binary([0, 0, 1, 0xba]), "mpeg", "mpg"],
    ["GIF", binary("GIF89a"), "gif", "gif"],
    ["JPEG", binary([0xff, 0xd8, 0xff, 0xe0]), "jpeg_pipe", "jpg"],
    ["PNG", binary([0x89], "PNG\r\n", [0x1a, 0x0a]), "png_pipe", "png"],
    ["WebP", binary("RIFF", [1, 2, 3, 4], "WEBPVP8 "), "webp_pipe", "webp"],
  ];
  for (const [name, head, demuxer, extension] of accepted)
    test(`${name} opens with ${demuxer}`, () =>
      expect(sniffMedia(head)).toMatchObject({ ok: true, type: { demuxer, extension } }));

  const refused: readonly (readonly [string, Buffer, string])[] = [
    ["nothing", Buffer.alloc(0), "empty"],
    ["HLS playlist", Buffer.from("#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"), "list"],
    ["HLS playlist after blanks and a byte order mark", Buffer.from("\ufeff\n #EXTM3U\n"), "list"],
    ["concat list", Buffer.from("ffconcat version 1.0\nfile /etc/passwd\n"), "list"],
    ["concat list without header", Buffer.from("file '/etc/passwd'\n"), "list"],
    ["DASH manifest", Buffer.from('<?xml version="1.0"?>\n<MPD xmlns="x">'), "list"],
    ["SDP", Buffer.from("v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\n"), "list"],
    ["SVG", Buffer.from("<svg xmlns='http://www.w3.org/2000/svg'>"), "list"],
    ["text", Buffer.from("This is no video.\n"), "text"],
    ["text in another encoding", Buffer.from("Gr\xfc\xdfe", "latin1"), "text"],
    ["UTF-16 text", Buffer.from("\ufeffhello", "utf16le"), "text"],
    ["MP3", binary("ID3"), "sound"],
    ["MP3 without a tag", binary([0xff, 0xfb, 0x90]), "sound"],
    ["WAV", binary("RIFF", [1, 2, 3, 4], "WAVEfmt "), "sound"],
    ["M4A", binary([0, 0, 0, 24], "ftypM4A "), "sound"],
    ["HEIC", binary([0, 0, 0, 24], "ftypheic"), "unsupported"],
    ["PDF", binary("%PDF-1.7"), "unsupported"],
    ["zeros", Buffer.alloc(400), "unknown"],
    ["ELF", binary([0x7f], "ELF"), "unknown"],
  ];
  for (const [name, head, reason] of refused)
    test(`${name} is refused as ${reason}`, () => expect(sniffMedia(head)).toMatchObject({ ok: false, reason }));
});
