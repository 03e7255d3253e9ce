// npm run bench [name…]: runs benchmarks and writes their figures into docs/benchmarks.md, each into its own section. A section
// says on which machine and when it was measured; a benchmark that was not run keeps its older figures.
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { repositoryRoot } from "../checks/repository.ts";
import { type Bench, describeMachine } from "./bed.ts";
import { overhead } from "./overhead.ts";
import { rest } from "./rest.ts";
import { start } from "./start.ts";

const benches: readonly Bench[] = [overhead, start, rest];
const titles: Readonly<Record<string, string>> = {
  overhead: "Overhead of the system over the bare programs",
  start: "From submission to the first FFmpeg process",
  rest: "At rest",
};

const main = async (signal: AbortSignal): Promise<number> => {
  const wanted = process.argv.slice(2);
  const unknown = wanted.filter((name) => !benches.some((bench) => bench.name === name));
  if (unknown.length > 0) {
    console.error(`There is no benchmark ${unknown.join(", ")}; there are ${benches.map((b) => b.name).join(", ")}.`);
    return 2;
  }
  const file = join(repositoryRoot(), "docs/benchmarks.md");
  const machine = await describeMachine();
  for (const bench of benches.filter(({ name }) => wanted.length === 0 || wanted.includes(name))) {
    console.error(`${bench.name}:`);
    const figures = await bench.run((text) => console.error(`  ${text}`), signal);
    const day = new Date().toISOString().slice(0, 10);
    const body = `\`npm run bench ${bench.name}\`, ${day}, ${machine}.\n\n${figures}\n`;
    await writeFile(file, withSection(await readFile(file, "utf8").catch(() => ""), bench.name, body));
    console.log(figures);
  }
  return 0;
};

const opening = `# Benchmarks

Figures come only from \`npm run bench\`, which writes them here with the command, the day and the machine.
`;

/** The page with the section of this benchmark replaced, or put at the end. */
const withSection = (page: string, name: string, body: string): string => {
  const mark = `<!-- bench: ${name} -->`;
  const section = `${mark}\n## ${titles[name] ?? name}\n\n${body}`;
  const parts = (page === "" ? opening : page).split(/(?=<!-- bench: )/);
  const at = parts.findIndex((part) => part.startsWith(mark));
  if (at >= 0) parts[at] = section;
  else parts.push(section);
  return `${parts.map((part) => part.trimEnd()).join("\n\n")}\n`;
};

const abort = new AbortController();
for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => abort.abort(signal));
process.exitCode = await main(abort.signal).catch((error: unknown) => {
  if (!abort.signal.aborted) throw error;
  return abort.signal.reason === "SIGTERM" ? 143 : 130;
});
