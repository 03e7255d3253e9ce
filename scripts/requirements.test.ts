// The requirement list and its tool: ids are read from titles only, and a wrong id or a lost line is found.
import { describe, expect, test } from "vitest";
import { repositoryRoot } from "./checks/repository.ts";
import { idsInTitles, parseRequirements, problemsOf, readCoverage } from "./requirements.ts";

// Built from parts so that this file itself carries no id that it does not prove.
const id = (n: number) => `[${"S"}${n}]`;

describe("requirements", () => {
  test("reads ids from the titles of tests and groups, not from bodies or comments", () => {
    const source = [
      `test("${id(1)} one", () => {});`,
      `describe('${id(2)}${id(3)} two', () => {});`,
      `test.each([1, 2])("${id(4)} each %s", () => {});`,
      `test.concurrent(\n  "${id(5)} on its own line", () => {});`,
      `// test ${id(6)} in a comment`,
      `test("plain", () => expect("${id(7)}").toBe(1));`,
    ].join("\n");
    expect(idsInTitles(source)).toEqual(["S1", "S2", "S3", "S4", "S5"]);
  });

  test("reads the page line by line", () => {
    expect(parseRequirements("# t\n- S1 first\ntext\n- S22 second, with `code`\n")).toEqual([
      { id: "S1", text: "first" },
      { id: "S22", text: "second, with `code`" },
    ]);
  });

  test("reports an unknown id with its file, and a lost or doubled line", () => {
    const whole = Array.from({ length: 291 }, (_, i) => ({ id: `S${i + 1}`, text: "x" }));
    expect(problemsOf({ requirements: whole, proven: new Map() })).toEqual([]);
    expect(problemsOf({ requirements: whole, proven: new Map([["S999", ["a.test.ts"]]]) })).toEqual([
      "a.test.ts proves S999, which docs/requirements.md does not have",
    ]);
    expect(problemsOf({ requirements: whole.slice(1), proven: new Map() })).toEqual([
      "docs/requirements.md has lost S1; ids are never removed",
    ]);
    expect(problemsOf({ requirements: [...whole, { id: "S5", text: "again" }], proven: new Map() })).toEqual([
      "docs/requirements.md has an id twice",
    ]);
  });

  test("the page and the titles of this checkout agree", async () => {
    expect(problemsOf(await readCoverage(repositoryRoot()))).toEqual([]);
  });
});
