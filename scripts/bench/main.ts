// npm run bench [name…]: runs benchmarks and writes their figures into docs/benchmarks.md, each into its own section, and as JSON
// into docs/benchmarks/. A section says on which machine and when it was measured; a benchmark that was not run keeps its older
// figures. --small: sizes that show that a benchmark works; those figures are printed and not kept.
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { repositoryRoot } from "../checks/repository.ts";
import { type Bench, describeMachine } from "./bed.ts";
import { dispatch } from "./dispatch.ts";
import { edge } from "./edge.ts";
import { failover } from "./failover.ts";
import { herd } from "./herd.ts";
import { history } from "./history.ts";
import { hosts } from "./hosts.ts";
import { offerLatency } from "./offer-latency.ts";
import { overhead } from "./overhead.ts";
import { placement } from "./placement.ts";
import { rest } from "./rest.ts";
import { start } from "./start.ts";
import { store } from "./store.ts";

const benches: readonly Bench[] = [
  overhead,
  start,
  rest,
  dispatch,
  store,
  offerLatency,
  hosts,
  herd,
  failover,
  edge,
  placement,
  history,
];
const titles: Readonly<Record<string, string>> = {
  overhead: "Overhead of the system over the bare programs",
  start: "From submission to the first FFmpeg process",
  rest: "At rest",
  dispatch: "Dispatch: from the queue to settlement",
  store: "The store alone",
  "offer-latency": "From submission to the offer at the agent",
  hosts: "Hosts of one replica",
  herd: "A replica comes back",
  failover: "Failover",
  edge: "The edge alone",
  placement: "One round of placement",
  history: "A year of history",
};

const main = async (signal: AbortSignal): Promise<number> => {
  const { values, positionals: wanted } = parseArgs({
    allowPositionals: true,
    options: { small: { type: "boolean", default: false }, profile: { type: "string" } },
  });
  const options = {
    isSmall: values.small,
    ...(values.profile === undefined ? {} : { profileDir: resolve(values.profile) }),
  };
  const unknown = wanted.filter((name) => !benches.some((bench) => bench.name === name));
  if (unknown.length > 0) {
    console.error(`There is no benchmark ${unknown.join(", ")}; there are ${benches.map((b) => b.name).join(", ")}.`);
    return 2;
  }
  const file = join(repositoryRoot(), "docs/benchmarks.md");
  const machine = await describeMachine();
  for (const bench of benches.filter(({ name }) => wanted.length === 0 || wanted.includes(name))) {
    console.error(`${bench.name}:`);
    const result = await bench.run((text) => console.error(`  ${text}`), signal, options);
    const { markdown, figures } = typeof result === "string" ? { markdown: result, figures: undefined } : result;
    console.log(markdown);
    if (options.isSmall) continue;
    const day = new Date().toISOString().slice(0, 10);
    const command = `npm run bench ${bench.name}`;
    const body = `\`${command}\`, ${day}, ${machine}.\n\n${markdown}\n`;
    await writeFile(file, withSection(await readFile(file, "utf8").catch(() => ""), bench.name, body));
    if (figures === undefined) continue;
    const folder = join(repositoryRoot(), "docs/benchmarks");
    await mkdir(folder, { recursive: true });
    const json = JSON.stringify({ command, day, machine, figures }, undefined, 2);
    await writeFile(join(folder, `${bench.name}.json`), `${json}\n`);
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
