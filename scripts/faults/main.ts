// The command behind `npm run test:faults`: the whole matrix, one fleet a fault, and the table of docs/faults.md.
// With names (F10 F14) only those run and the page is left alone; --seed=N (--acts=M) runs a random schedule instead.
// Ends with 1 when a job was lost, an effect was applied twice, an invariant was broken or a window was missed.
import { writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import type { Bed } from "./bed.ts";
import type { Result } from "./case.ts";
import { allCases } from "./matrix.ts";
import { faultsPage, lineOf } from "./page.ts";
import { isGood, runCase } from "./run-case.ts";
import { runSchedule } from "./schedule.ts";

const page = fileURLToPath(new URL("../../docs/faults.md", import.meta.url));

const option = (name: string): number | undefined => {
  const word = process.argv.find((text) => text.startsWith(`--${name}=`));
  return word === undefined ? undefined : Number(word.slice(name.length + 3));
};
const wanted = process.argv.filter((word) => /^F\d+$/i.test(word)).map((word) => word.toUpperCase());
/** Fleets at a time. More makes them late by each other's work, and then a window is missed that a quiet machine would keep. */
const atOnce = option("at-once") ?? 1;

const report = (result: Result): boolean => {
  console.log(`${isGood(result) ? "ok  " : "FAIL"} ${lineOf(result)}`);
  if (!isGood(result)) console.log([result.error ?? "", ...result.broken].join("\n"));
  return isGood(result);
};

const open = new Set<Bed>();
/** However this ends, nothing that it started goes on. */
const stopAll = async (why: unknown): Promise<void> => {
  console.error(why);
  await Promise.allSettled([...open].map((bed) => bed.stop()));
  process.exit(1);
};
for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => void stopAll(`ended by ${signal}`));
process.once("uncaughtException", (error) => void stopAll(error));

const runMatrix = async (): Promise<boolean> => {
  const cases = allCases.filter((one) => wanted.length === 0 || one.faults.some((name) => wanted.includes(name)));
  const began = performance.now();
  const results: Result[] = new Array(cases.length);
  let next = 0;
  const turn = async (): Promise<void> => {
    for (let at = next++; at < cases.length; at = next++) {
      const fault = cases[at];
      if (!fault) return;
      const result = await runCase(fault, open);
      results[at] = result;
      report(result);
    }
  };
  await Promise.all(Array.from({ length: atOnce }, turn));
  const tookMs = performance.now() - began;
  const bad = results.filter((result) => !isGood(result));
  console.log(`${results.length - bad.length} of ${results.length} faults survived in ${Math.round(tookMs / 1000)} s`);
  if (wanted.length === 0) {
    await writeFile(page, faultsPage(results, tookMs));
    console.log("written: docs/faults.md");
  }
  return bad.length === 0;
};

const seed = option("seed");
const isWell =
  seed === undefined
    ? await runMatrix()
    : report(await runSchedule({ seed, faults: option("acts") ?? 60, say: (line) => console.log(line), open }));
process.exitCode = isWell ? 0 : 1;
