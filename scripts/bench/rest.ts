// What the system costs when it does nothing: memory and CPU of the agent, and of the control plane beside it, over a minute,
// read from /proc of the two processes. Children (the packaged PostgreSQL) are not counted.
import { readFile } from "node:fs/promises";
import { setTimeout as pause } from "node:timers/promises";
import { type Bench, onBed } from "./bed.ts";

/** After the start a process still compiles and collects; then it is at rest. */
const settleMs = 20_000;
const minuteMs = 60_000;
const sampleMs = 1_000;
/** USER_HZ, fixed on every Linux that Node supports. */
const ticksPerSecond = 100;

export const rest: Bench = {
  name: "rest",
  run: (say, signal) =>
    onBed({ say, signal }, async (bed) => {
      await pause(settleMs, undefined, { signal });
      const watched = [
        { name: "agent", pid: bed.agent.pid() ?? 0 },
        { name: "control plane", pid: bed.controlPlane.pid() ?? 0 },
      ];
      const before = await Promise.all(watched.map(({ pid }) => cpuSeconds(pid)));
      const started = performance.now();
      const peaks = watched.map(() => 0);
      const sums = watched.map(() => 0);
      let samples = 0;
      while (performance.now() - started < minuteMs) {
        await pause(sampleMs, undefined, { signal });
        samples++;
        for (const [i, { pid }] of watched.entries()) {
          const mb = await rssMegabytes(pid);
          peaks[i] = Math.max(peaks[i] ?? 0, mb);
          sums[i] = (sums[i] ?? 0) + mb;
        }
      }
      const seconds = (performance.now() - started) / 1000;
      const after = await Promise.all(watched.map(({ pid }) => cpuSeconds(pid)));
      const rows = watched.map(({ name }, i) => {
        const percent = (((after[i] ?? 0) - (before[i] ?? 0)) / seconds) * 100;
        const mean = (sums[i] ?? 0) / samples;
        say(`${name}: ${mean.toFixed(1)} MB, ${percent.toFixed(2)} % of a core`);
        return `| ${name} | ${mean.toFixed(1)} | ${(peaks[i] ?? 0).toFixed(1)} | ${percent.toFixed(2)} |`;
      });
      return [
        `Both processes connected and idle, ${Math.round(seconds)} s from /proc, sampled every second (1 MB = 1,000,000 bytes).`,
        "Goal for the agent: below 90 MB and below 0.5 % of a core.",
        "",
        "| process | mean RSS (MB) | highest RSS (MB) | CPU (% of a core) |",
        "| --- | --- | --- | --- |",
        ...rows,
      ].join("\n");
    }),
};

const cpuSeconds = async (pid: number): Promise<number> => {
  const stat = await readFile(`/proc/${pid}/stat`, "utf8");
  // utime and stime are fields 14 and 15; the name in field 2 may hold blanks.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) / ticksPerSecond;
};

const rssMegabytes = async (pid: number): Promise<number> => {
  const status = await readFile(`/proc/${pid}/status`, "utf8");
  return (Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1]) * 1024) / 1e6;
};
