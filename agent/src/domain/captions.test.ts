// Captions against text that would break the formats, the screen or the clock; and libass itself reads what was written.
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { captionsFrom, toAss, toSrt } from "./captions.ts";

const one = (text: string, start_ms = 0, end_ms = 2_000) => captionsFrom([{ text, start_ms, end_ms }]);
const dialogues = (ass: string) => ass.split("\n").filter((line) => line.startsWith("Dialogue:"));
const textOf = (dialogue: string) => dialogue.split(",").slice(9).join(",");

const nasty = [
  `It's 100% "sure": {\\b1}bold{\\b0} C:\\Notes\\new`,
  "Grüße, žluťoučký kůň, Ελλάδα, Привет",
  "{}{\\an8\\pos(0,0)}{",
  "back\\\\slash \\N \\h \\n end",
  "a --> b <b>c</b> & <script>",
  "comma, comma,, and; semi: colon",
];

describe("captionsFrom", () => {
  test("long sentences become several captions of two lines whose times meet", () => {
    const captions = one("one two three four five six seven eight nine ten ".repeat(6), 1_000, 13_000);
    expect(captions.length).toBeGreaterThan(2);
    expect(captions[0]?.startMs).toBe(1_000);
    expect(captions.at(-1)?.endMs).toBeCloseTo(13_000);
    for (const [i, caption] of captions.entries()) {
      expect(caption.lines.length).toBeLessThanOrEqual(2);
      for (const line of caption.lines) expect(line.length).toBeLessThanOrEqual(42);
      if (i > 0) expect(caption.startMs).toBeCloseTo(captions[i - 1]?.endMs ?? -1);
    }
  });

  test("a word of 500 letters is cut, and text without blanks too", () => {
    for (const text of ["x".repeat(500), "漢字".repeat(200), "👩‍👩‍👧‍👦".repeat(60)]) {
      const lines = one(text).flatMap((caption) => caption.lines);
      expect(lines.join("")).toBe(text);
      expect(lines.length).toBeGreaterThan(1);
    }
  });

  test("blank text makes no caption", () => {
    expect(one(" \n\t\u2028 ")).toEqual([]);
  });

  test("property: no text is lost, times are ordered, and each caption has a time", () => {
    const sentence = fc.record({
      text: fc.string({ unit: "grapheme", maxLength: 300 }),
      ms: fc.integer({ min: 0, max: 9_000 }),
    });
    fc.assert(
      fc.property(fc.array(sentence, { maxLength: 8 }), (sentences) => {
        let at = 0;
        const timings = sentences.map(({ text, ms }) => {
          const start_ms = at;
          at += Math.max(10, ms);
          return { text, start_ms, end_ms: at };
        });
        const captions = captionsFrom(timings);
        const bare = (text: string) => text.replaceAll(/[\s\p{Cc}\p{Zl}\p{Zp}]/gu, "");
        expect(bare(captions.flatMap((c) => c.lines).join(""))).toBe(bare(timings.map((t) => t.text).join("")));
        let end = 0;
        for (const caption of captions) {
          expect(caption.startMs).toBeGreaterThanOrEqual(end - 1e-6);
          expect(caption.endMs).toBeGreaterThan(caption.startMs);
          end = caption.endMs;
        }
        // One line of the file for each caption: nothing in the text can end it.
        expect(dialogues(toAss(captions)).length).toBe(captions.length);
      }),
    );
  });
});

describe("toAss and toSrt", () => {
  test("braces, backslashes and line ends cannot leave the text", () => {
    for (const text of [...nasty, "first\nDialogue: 0,0:00:00.00,9:00:00.00,Default,,0,0,0,,injected"]) {
      const ass = toAss(one(text));
      for (const dialogue of dialogues(ass)) {
        const shown = textOf(dialogue);
        expect(shown.replaceAll("\\{", "").replaceAll("\\}", "")).not.toMatch(/[{}]/);
        expect(shown.replaceAll("\\{", "").replaceAll("\\}", "").replaceAll("\\N", "")).not.toMatch(/\\(?!\u2060)/);
      }
      expect(ass.split("\n").filter((line) => line.startsWith("Dialogue: 0,0:00:00.00,9:"))).toEqual([]);
    }
  });

  test("times", () => {
    const captions = [{ lines: ["a"], startMs: 3_661_239.9, endMs: 3_662_000 }];
    expect(dialogues(toAss(captions))[0]).toContain("0,1:01:01.23,1:01:02.00,Default");
    expect(toSrt(captions)).toBe("1\n01:01:01,239 --> 01:01:02,000\na\n");
  });

  test("an arrow or a tag in the text stays text in .srt", () => {
    const srt = toSrt(one("a --> b <b>c</b> {\\an8}d 1 < 2"));
    expect(srt.split("\n")[2]).toBe("a → b <\u2060b>c<\u2060/b> {\u2060\\an8}d 1 < 2");
  });

  test("libass draws the nastiest texts without a complaint, and each puts ink on the picture", () => {
    const dir = mkdtempSync(path.join(tmpdir(), "renderplane-captions-"));
    try {
      for (const text of nasty) {
        writeFileSync(path.join(dir, "captions.ass"), toAss(one(text)));
        const run = spawnSync(
          "ffmpeg",
          "-hide_banner -nostdin -loglevel level+info -f lavfi -i color=black:s=320x180:r=5:d=1 -vf ass=filename=captions.ass:shaping=complex,signalstats,metadata=print:key=lavfi.signalstats.YMAX -frames:v 1 -f null -".split(
            " ",
          ),
          { cwd: dir, encoding: "utf8", timeout: 20_000 },
        );
        expect(run.status, run.stderr).toBe(0);
        expect(run.stderr).not.toMatch(/glyph 0x|\[error\]|\[warning\]/);
        expect(Number(/YMAX=(\d+)/.exec(run.stderr)?.[1])).toBeGreaterThan(150);
      }
    } finally {
      rmSync(dir, { recursive: true, force: true });
    }
  });
});
