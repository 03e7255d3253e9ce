// Compares docs/requirements.md with the titles of the tests. Lists the ids that no test carries; with --check fails when a
// test carries an id that the page does not have, or when the page itself is not whole. What an id means is the page's business.

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { repositoryFiles, repositoryRoot } from "./checks/repository.ts";

export type Requirement = { readonly id: string; readonly text: string };
export type Coverage = {
  readonly requirements: readonly Requirement[];
  /** Ids in titles, with the files that carry them. */
  readonly proven: ReadonlyMap<string, readonly string[]>;
};

/** Lines like "- S138 Enqueue: persist, index". */
export const parseRequirements = (page: string): Requirement[] =>
  [...page.matchAll(/^- (S\d+) (.+)$/gm)].map((m) => ({ id: m[1] ?? "", text: m[2] ?? "" }));

/** Ids in brackets inside the first argument of test, describe or it; a comment or a body proves nothing. */
export const idsInTitles = (source: string): string[] => {
  const titles = source.matchAll(
    /\b(?:test|it|describe)(?:\.\w+)*(?:\([^)]*\)|`[^`]*`)?\(\s*("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|`(?:[^`\\]|\\.)*`)/g,
  );
  const ids = [...titles].flatMap((m) => [...(m[1] ?? "").matchAll(/\[(S\d+)\]/g)].map((id) => id[1] ?? ""));
  return [...new Set(ids)];
};

export const readCoverage = async (root: string): Promise<Coverage> => {
  const requirements = parseRequirements(await readFile(join(root, "docs/requirements.md"), "utf8"));
  const proven = new Map<string, string[]>();
  for (const file of await repositoryFiles(root, (name) => name.endsWith(".test.ts"))) {
    for (const id of idsInTitles(await readFile(join(root, file), "utf8")))
      proven.set(id, [...(proven.get(id) ?? []), file]);
  }
  return { requirements, proven };
};

/** What is wrong with the page or the titles, one sentence each. */
export const problemsOf = ({ requirements, proven }: Coverage): string[] => {
  const known = new Set(requirements.map((r) => r.id));
  const missing = Array.from({ length: 291 }, (_, i) => `S${i + 1}`).filter((id) => !known.has(id));
  return [
    ...(known.size === requirements.length ? [] : ["docs/requirements.md has an id twice"]),
    ...missing.map((id) => `docs/requirements.md has lost ${id}; ids are never removed`),
    ...[...proven]
      .filter(([id]) => !known.has(id))
      .map(([id, files]) => `${files.join(", ")} proves ${id}, which docs/requirements.md does not have`),
  ];
};

const main = async (): Promise<number> => {
  const coverage = await readCoverage(repositoryRoot());
  const problems = problemsOf(coverage);
  for (const problem of problems) console.error(problem);
  if (process.argv.includes("--check")) return problems.length > 0 ? 1 : 0;
  const open = coverage.requirements.filter((r) => !coverage.proven.has(r.id));
  for (const r of open) console.log(`${r.id.padEnd(5)} ${r.text}`);
  console.error(`${coverage.requirements.length - open.length} proven by a test, ${open.length} not yet`);
  return problems.length > 0 ? 1 : 0;
};

if (import.meta.main) process.exitCode = await main();
