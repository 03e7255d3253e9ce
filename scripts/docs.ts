// Writes the documents that are derived from code: docs/states.md and docs/configuration.md. With --check writes nothing and
// fails when a page on disk differs, so a table in code and its page never disagree. Other pages are written by hand.
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { repositoryRoot } from "./checks/repository.ts";
import { configurationPage } from "./docs/configuration.ts";
import { statesPage } from "./docs/states.ts";

const pages: Record<string, () => string | Promise<string>> = {
  "docs/states.md": statesPage,
  "docs/configuration.md": configurationPage,
};

/** Names of the pages that differ from what the code says. */
export const staleDocuments = async (root: string): Promise<string[]> => {
  const stale: string[] = [];
  for (const [name, make] of Object.entries(pages)) {
    const onDisk = await readFile(join(root, name), "utf8").catch(() => "");
    if (onDisk !== (await make())) stale.push(name);
  }
  return stale;
};

const main = async (): Promise<number> => {
  const root = repositoryRoot();
  const stale = await staleDocuments(root);
  if (process.argv.includes("--check")) {
    for (const name of stale) console.error(`${name} is not what the code says; run: node scripts/docs.ts`);
    return stale.length > 0 ? 1 : 0;
  }
  for (const name of stale) {
    const make = pages[name];
    if (make) await writeFile(join(root, name), await make());
    console.error(`wrote ${name}`);
  }
  return 0;
};

if (import.meta.main) process.exitCode = await main();
