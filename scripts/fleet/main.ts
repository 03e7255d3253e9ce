// The command behind scripts/simulate-fleet: reads the options, runs the simulator or the model, prints the report. Results on
// stdout, everything else on stderr. Exit code 0: everything ended and every invariant holds; 1: it did not; 2: wrong use.
import { writeFile } from "node:fs/promises";
import { type Options, readOptions, UsageError, usage } from "./options.ts";
import { compareWithPlan } from "./plan/compare.ts";
import { planFleet } from "./plan/plan-fleet.ts";
import { simulate } from "./simulate.ts";

const say = (text: string) => void process.stderr.write(`${text}\n`);

const main = async (): Promise<number> => {
  let options: Options | undefined;
  try {
    options = readOptions(process.argv.slice(2));
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    say(`${error.message}\nSee: scripts/simulate-fleet --help`);
    return 2;
  }
  if (!options) {
    console.log(usage);
    return 0;
  }
  const abort = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => abort.abort(signal));
  try {
    const report = options.isPlan ? await planFleet(options, say) : await run(options, abort.signal);
    const text = JSON.stringify(report, undefined, 2);
    console.log(text);
    if (options.reportFile !== undefined) await writeFile(options.reportFile, `${text}\n`);
    const broken = "brokenInvariants" in report ? (report.brokenInvariants ?? []) : [];
    for (const name of broken) say(`BROKEN: ${name}`);
    return broken.length > 0 || ("hasEnded" in report && !report.hasEnded) ? 1 : 0;
  } catch (error) {
    if (!abort.signal.aborted) throw error;
    say("Stopped.");
    return abort.signal.reason === "SIGTERM" ? 143 : 130;
  }
};

const run = async (options: Options, signal: AbortSignal) => {
  const report = await simulate(options, say, signal);
  return options.isChecked ? { ...report, comparison: await compareWithPlan(options, report, say) } : report;
};

process.exitCode = await main();
