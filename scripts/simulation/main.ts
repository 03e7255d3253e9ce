// npm run test:sim -- --seed S --runs N [--keep-going N] [--words]: plays N histories from seed S on. --runs above one are shared
// between as many processes as there are processors. Ends with 1 and the shortest failing history when an invariant is broken.
import { fork } from "node:child_process";
import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import { openRig } from "./rig.ts";
import { runSeeds, tell } from "./run.ts";

const { values } = parseArgs({
  options: {
    seed: { type: "string", default: "1" },
    runs: { type: "string", default: "500" },
    /** Failures after which it stops. */
    "keep-going": { type: "string", default: "1" },
    words: { type: "boolean", default: false },
    /** Set for the processes that share the runs: their number and how many they are. */
    part: { type: "string" },
  },
});

const whole = (name: "seed" | "runs" | "keep-going"): number => {
  const n = Number(values[name]);
  if (!Number.isSafeInteger(n) || n < 0) throw new RangeError(`--${name} must be a whole number, got ${values[name]}`);
  return n;
};

/** This process's share of the runs. */
const playPart = async (part: number, parts: number): Promise<number> => {
  const rig = await openRig();
  const abort = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => abort.abort(signal));
  try {
    const report = await runSeeds(rig, {
      from: whole("seed") + part,
      runs: Math.max(0, Math.ceil((whole("runs") - part) / parts)),
      step: parts,
      stopAfter: whole("keep-going"),
      signal: abort.signal,
      onPlayed: (seed, verdict) => {
        if (values.words) console.log(`seed ${seed}\n${verdict.words.join("\n")}`);
        if (verdict.broken !== undefined)
          console.log(`seed ${seed} breaks: ${verdict.broken}\nlooking for a shorter history…`);
      },
    });
    for (const failure of report.failures) console.log(tell(failure));
    const rate = report.runs / report.seconds;
    console.log(
      `${report.runs} histories, ${report.failures.length} failed, ${report.seconds.toFixed(1)} s, ${rate.toFixed(1)} a second`,
    );
    return report.failures.length === 0 ? 0 : 1;
  } catch (error) {
    if (!abort.signal.aborted) throw error;
    return abort.signal.reason === "SIGTERM" ? 143 : 130;
  } finally {
    await rig.close();
  }
};

/** The first part that fails ends the others. */
const playInParts = async (parts: number): Promise<number> => {
  const children = Array.from({ length: parts }, (_, n) =>
    fork(import.meta.filename, [...process.argv.slice(2), "--part", `${n}/${parts}`]),
  );
  const forward = (signal: NodeJS.Signals) => {
    for (const child of children) child.kill(signal);
  };
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => forward(signal));
  const codes = await Promise.all(
    children.map(
      (child) =>
        new Promise<number>((done) => {
          child.once("exit", (code) => {
            if (code === 1) forward("SIGTERM");
            done(code ?? 1);
          });
        }),
    ),
  );
  return codes.includes(1) ? 1 : Math.max(...codes);
};

const parts = Math.min(availableParallelism(), Math.ceil(whole("runs") / 50));
const [part, of] = (values.part ?? "").split("/").map(Number);
process.exitCode =
  part !== undefined && of !== undefined
    ? await playPart(part, of)
    : parts > 1
      ? await playInParts(parts)
      : await playPart(0, 1);
