// Titles, descriptions and tags at and beyond their limits.
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { narratedRequest } from "./fields.ts";
import { maxDescription, maxTitle, planMetadata, shorten } from "./package-plan.ts";

const plan = (request: object, script = "One is here. Two.", credits: string[] = []) =>
  planMetadata(narratedRequest.parse(request), script, credits);

describe("planMetadata", () => {
  test("defaults: first sentence, script, tags of 002, category 22, private", () => {
    expect(plan({})).toEqual({
      metadata: {
        title: "One is here.",
        description: "One is here. Two.",
        tags: ["ytempire", "automated"],
        category: "22",
        privacy: "private",
      },
      shortened: [],
    });
  });

  test("what the request says wins; unicode, quotes, %, : and ' stay, angle brackets cannot be published", () => {
    const { metadata } = plan({
      title: "It's 100 %: “naïve” 你好 🎉\n<b>",
      description: "a\nb <c>",
      tags: ["x", "x", "two words", "a,b", " "],
      category: "27",
      privacy: "unlisted",
    });
    expect(metadata).toEqual({
      title: "It's 100 %: “naïve” 你好 🎉 ‹b›",
      description: "a\nb ‹c›",
      tags: ["x", "two words", "a b"],
      category: "27",
      privacy: "unlisted",
    });
  });

  test("keywords are the tags of a request without tags", () => {
    expect(plan({ keywords: ["bees", "honey"] }).metadata.tags).toEqual(["bees", "honey"]);
  });

  test("what is too long is shortened and named", () => {
    const { metadata, shortened } = plan({
      title: "word ".repeat(30),
      description: "word ".repeat(200),
      tags: Array.from({ length: 30 }, (_, n) => `${"t".repeat(40)}${n}`),
    });
    expect(metadata.title.length).toBeLessThanOrEqual(maxTitle);
    expect(metadata.title.endsWith("word…")).toBe(true);
    expect(metadata.description.length).toBeLessThanOrEqual(maxDescription);
    expect(metadata.tags.join(",").length).toBeLessThanOrEqual(500);
    expect(shortened).toEqual(["title", "description", "tags"]);
  });

  test("credits follow the description while they fit whole", () => {
    const credits = ["Video by A", "B".repeat(maxDescription), "Video by C"];
    expect(plan({ description: "Hello" }, "Hi.", credits).metadata.description).toBe("Hello\nVideo by A\nVideo by C");
  });

  test("property: limits hold and no character is broken, whatever the request says", () => {
    const text = fc.string({ unit: "grapheme", maxLength: 1_500 });
    fc.assert(
      fc.property(
        text,
        text,
        text,
        fc.array(fc.string({ unit: "grapheme", minLength: 1, maxLength: 60 }), { maxLength: 30 }),
        (title, description, script, tags) => {
          const { metadata } = plan({ title, description, tags }, script, ["Video by Ü"]);
          expect(metadata.title.length).toBeLessThanOrEqual(maxTitle);
          expect(metadata.title.length).toBeGreaterThan(0);
          expect(metadata.title).not.toMatch(/[<>\n]/);
          expect(metadata.description.length).toBeLessThanOrEqual(maxDescription);
          expect(metadata.tags.join(",").length).toBeLessThanOrEqual(500);
          expect([metadata.title, metadata.description].every((value) => value.isWellFormed())).toBe(true);
        },
      ),
      { numRuns: 100 },
    );
  });
});

test("shorten keeps what fits and cuts between people's characters", () => {
  expect(shorten("abc", 3)).toBe("abc");
  expect(shorten("👩‍👩‍👧‍👦👩‍👩‍👧‍👦", 15)).toBe("👩‍👩‍👧‍👦…");
});
