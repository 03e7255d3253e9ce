// What the system costs in time: the sample video as a job, against the very same programs with the very same arguments run by
// hand, interleaved on the same machine. By hand, a step starts when the steps that had ended before it began in the job have
// ended, so both sides may do the same things side by side and the comparison does not favour the system.
import { spawn } from "node:child_process";
import { open, readdir, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import type { JobJson } from "../../control-plane/src/cli/shapes.ts";
import { repositoryRoot } from "../checks/repository.ts";
import { type Bench, keptAttempts, onBed, percentile, submit, untilOver } from "./bed.ts";

/** Each takes about two minutes on two cores; the median of three is not moved by one bad one. */
const rounds = 3;

/** One program as the agent ran it, with when it began and ended in milliseconds of the wall clock. */
export type Step = {
  readonly name: string;
  readonly dir: string;
  readonly cwd: string;
  readonly command: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly beganMs: number;
  readonly endedMs: number;
};

export const overhead: Bench = {
  name: "overhead",
  run: (say, signal) =>
    onBed({ say, signal }, async (bed) => {
      const body = JSON.parse(await readFile(join(repositoryRoot(), "examples/narrated-video.json"), "utf8"));
      const rows: { system: number; byHand: number; programs: number }[] = [];
      for (let round = 0; round < rounds; round++) {
        const job = await untilOver(bed.client, await submit(bed.client, body), 200, signal);
        const system = secondsOf(job);
        const steps = await readSteps(bed.agentDir, job);
        const byHand = await replay(steps);
        rows.push({ system, byHand, programs: steps.length });
        say(`round ${round + 1}: ${system.toFixed(2)} s by the system, ${byHand.toFixed(2)} s by hand`);
      }
      const ratio = percentile(
        rows.map((row) => row.system / row.byHand),
        0.5,
      );
      return [
        `The sample (\`examples/narrated-video.json\`, ${rows[0]?.programs} programs) as a job, from submission to its end, and the same`,
        "programs with the same arguments by hand, in turns. Goal: at most 1.05.",
        "",
        "| round | through the system (s) | by hand (s) | ratio |",
        "| --- | --- | --- | --- |",
        ...rows.map(
          (row, i) =>
            `| ${i + 1} | ${row.system.toFixed(2)} | ${row.byHand.toFixed(2)} | ${(row.system / row.byHand).toFixed(3)} |`,
        ),
        `| median |  |  | **${ratio.toFixed(3)}** |`,
      ].join("\n");
    }),
};

const secondsOf = (job: JobJson): number =>
  (new Date(job.ended_at ?? "").getTime() - new Date(job.created_at).getTime()) / 1000;

export const readSteps = async (agentDir: string, job: JobJson): Promise<Step[]> => {
  const steps: Step[] = [];
  for (const [stage, folder] of await keptAttempts(agentDir, job)) {
    // The folder was put aside after the attempt; paths in arguments still name where it was.
    const moved = (text: string) => text.replaceAll(folder.replace("/kept/", "/attempts/"), folder);
    for (const name of await readdir(join(folder, "steps"))) {
      const dir = join(folder, "steps", name);
      const { command, cwd, env } = JSON.parse(await readFile(join(dir, "process.json"), "utf8")) as {
        command: string[];
        cwd: string;
        env: Record<string, string>;
      };
      const { elapsedMs } = JSON.parse(await readFile(join(dir, "exit.json"), "utf8")) as { elapsedMs: number };
      const beganMs = (await stat(join(dir, "run.json"))).mtimeMs;
      steps.push({
        name: `${stage}/${name}`,
        dir,
        cwd: moved(cwd),
        command: command.map(moved),
        env: Object.fromEntries(Object.entries(env).map(([key, value]) => [key, moved(value)])),
        beganMs,
        endedMs: beganMs + elapsedMs,
      });
    }
  }
  return steps.sort((a, b) => a.beganMs - b.beganMs);
};

/** Runs the steps with the order and the overlap that they had; seconds from the first start to the last end. */
const replay = async (steps: readonly Step[]): Promise<number> => {
  const runs = new Map<Step, Promise<void>>();
  const started = performance.now();
  for (const step of steps) {
    const before = steps.filter((other) => other.endedMs <= step.beganMs);
    // Every step in `before` began earlier, so its run is already in the map.
    runs.set(
      step,
      Promise.all(before.map((other) => runs.get(other))).then(() => runByHand(step)),
    );
  }
  await Promise.all(runs.values());
  return (performance.now() - started) / 1000;
};

const runByHand = async (step: Step): Promise<void> => {
  const [program = "", ...args] = step.command;
  const stdin = await open(join(step.dir, "stdin"), "r");
  try {
    const code = await new Promise<number | null>((resolve, reject) => {
      const child = spawn(program, args, {
        cwd: step.cwd,
        env: { ...step.env },
        stdio: [stdin.fd, "ignore", "ignore"],
      });
      child.once("error", reject);
      child.once("exit", resolve);
    });
    if (code !== 0) throw new Error(`${step.name} by hand ended with ${code}: ${step.command.join(" ")}`);
  } finally {
    await stdin.close();
  }
};
