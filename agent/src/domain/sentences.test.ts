// What counts as one sentence, by example and by property.
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { maxSentenceCharacters, normaliseScript, splitSentences } from "./sentences.ts";

describe("splitSentences", () => {
  const table: readonly (readonly [string, string, readonly string[]])[] = [
    ["full stops, questions, exclamations", "One. Two? Three!", ["One.", "Two?", "Three!"]],
    ["titles", "Dr. Smith met Mrs. Jones. They spoke.", ["Dr. Smith met Mrs. Jones.", "They spoke."]],
    [
      "initials",
      "J. R. R. Tolkien wrote it. So did I. Really.",
      ["J. R. R. Tolkien wrote it.", "So did I.", "Really."],
    ],
    ["decimals and versions", "It costs 3.50 dollars. Use v1.2.3 now.", ["It costs 3.50 dollars.", "Use v1.2.3 now."]],
    ["numbered abbreviations", "See Fig. 3 and No. 7. Done.", ["See Fig. 3 and No. 7.", "Done."]],
    [
      "weak abbreviations bind before lower case only",
      "At 5 p.m. we left. He came at 6 p.m. She stayed.",
      ["At 5 p.m. we left.", "He came at 6 p.m.", "She stayed."],
    ],
    ["ellipsis before lower case", "Wait... what? Yes.", ["Wait... what?", "Yes."]],
    ["quotes", "“Stop!” she said. 'Go: 100 %' he's sure.", ["“Stop!” she said.", "'Go: 100 %' he's sure."]],
    [
      "Chinese and Japanese stops",
      "你好。今天天气很好！これはペンです。",
      ["你好。", "今天天气很好！", "これはペンです。"],
    ],
    ["Hindi danda", "यह एक वाक्य है। यह दूसरा है।", ["यह एक वाक्य है।", "यह दूसरा है।"]],
    ["punctuation and emoji join the sentence before", "Yes. ... !!! 🎉 No.", ["Yes. ... !!!", "🎉 No."]],
    ["leading punctuation joins the next", "— …\n\nBegin here.", ["— … Begin here."]],
    ["headings and blank lines", "The title\n\nA text follows.", ["The title", "A text follows."]],
    ["lines ended on purpose", "First line\nSecond line", ["First line", "Second line"]],
    [
      "lines wrapped by an editor",
      `${"word ".repeat(12)}and it\ngoes on here.`,
      [`${"word ".repeat(12)}and it goes on here.`],
    ],
    ["lists", "We need:\n- milk\n- bread and 2 eggs", ["We need:", "milk", "bread and 2 eggs"]],
    ["nothing to speak", "... !!! — \n 🎉", []],
    ["nothing", " \n\t ", []],
  ];
  for (const [name, text, sentences] of table) test(name, () => expect(splitSentences(text)).toEqual(sentences));

  test("a very long sentence is cut at clauses, then at words", () => {
    const pieces = splitSentences(`${"alpha beta gamma, ".repeat(40)}end.`);
    expect(pieces.length).toBeGreaterThan(2);
    expect(pieces.slice(0, -1).every((piece) => piece.endsWith(","))).toBe(true);
    expect(pieces.join(" ")).toBe(`${"alpha beta gamma, ".repeat(40)}end.`);
  });

  test("a word without a space is cut between characters, never inside one", () => {
    const pieces = splitSentences("é😀".repeat(600));
    expect(pieces.join("")).toBe("é😀".repeat(600));
    expect(pieces.every((piece) => piece.isWellFormed() && piece.length <= maxSentenceCharacters)).toBe(true);
  });

  test("100 KB are cut in well under a second", () => {
    const startedAt = performance.now();
    expect(splitSentences("The quick brown fox, aged 3.5 years, jumps. ".repeat(2_300)).length).toBe(2_300);
    expect(performance.now() - startedAt).toBeLessThan(2_000);
  });

  const letters = (text: string) => text.normalize("NFC").replace(/[^\p{L}\p{N}]/gu, "");
  const script = fc
    .array(
      fc.oneof(
        fc.string({ unit: "grapheme", maxLength: 60 }),
        fc.constantFrom(". ", "\n", "\n\n", "Mr. ", "3.5", "! ", ", ", "- ", "… "),
      ),
      {
        maxLength: 60,
      },
    )
    .map((parts) => parts.join(""));

  test("property: no letter is lost, doubled or moved; no piece is empty or too long", () => {
    fc.assert(
      fc.property(script, (text) => {
        const pieces = splitSentences(text);
        // NFC over the joined text and over its parts differ at borders; the normalised script is the common ground.
        expect(letters(pieces.join(" "))).toBe(letters(normaliseScript(text)));
        for (const piece of pieces) {
          expect(piece).toMatch(/[\p{L}\p{N}]/u);
          expect(piece.trim()).toBe(piece);
        }
      }),
      { numRuns: 300 },
    );
  });

  test("property: it is stable", () => {
    fc.assert(
      fc.property(script, (text) => {
        expect(splitSentences(normaliseScript(text))).toEqual(splitSentences(text));
      }),
    );
  });
});

describe("normaliseScript", () => {
  test("newlines, controls, byte order mark, composition and blank lines", () => {
    expect(normaliseScript("\ufeffa\r\nb\rc\u0000\u0007\n\n\n\nCafe\u0301  \n")).toBe("a\nb\nc\n\nCafé");
  });
});
