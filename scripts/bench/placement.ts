// npm run bench placement: 200 stages of a few shapes over 5,000 hosts, placed by one round, against judging every host for every
// stage. Pure computation, so processor time is what counts: no database, no network.
import { place } from "../../control-plane/src/domain/placement.ts";
import { createRound } from "../../control-plane/src/domain/placement-round.ts";
import { testGpu, testHost, testNeed } from "../../control-plane/src/domain/testing-fleet.ts";
import type { Bench } from "./bed.ts";

const hostCount = 5_000;
const stageCount = 200;
const runs = 9;

const fleet = () =>
  Array.from({ length: hostCount }, (_, i) =>
    testHost(
      `host-${String(i).padStart(4, "0")}`,
      i % 5 === 0 ? { cores: 16, gpus: [testGpu(`GPU-${i}`)] } : { cores: 8 },
    ),
  );
const needs = (shapes: number) =>
  Array.from({ length: stageCount }, (_, i) => {
    const shape = i % shapes;
    const gpu = shape % 3 === 0 ? ("preferred" as const) : ("none" as const);
    return testNeed({ cores: 1 + (shape % 4), memoryBytes: 2 ** 30 + shape, gpu }, { shape: `shape-${shape}` });
  });
const median = (act: () => void): number => {
  const times = Array.from({ length: runs }, () => {
    const begun = process.cpuUsage();
    act();
    const { user, system } = process.cpuUsage(begun);
    return (user + system) / 1000;
  });
  return times.sort((a, b) => a - b)[Math.floor(runs / 2)] ?? 0;
};

export const placement: Bench = {
  name: "placement",
  run: async (say) => {
    const hosts = fleet();
    const rows: string[] = [];
    for (const shapes of [1, 6, 20]) {
      const wanted = needs(shapes);
      const ms = median(() => {
        const round = createRound(hosts);
        for (const need of wanted) round.place(need);
      });
      say(`${shapes} shapes: ${ms.toFixed(1)} ms`);
      rows.push(`| ${stageCount} stages of ${shapes} shapes, ${hostCount} hosts, one round | ${ms.toFixed(1)} ms |`);
    }
    const one = testNeed();
    const alone = median(() => place(one, hosts));
    rows.push(`| one stage alone, every host judged and sorted | ${alone.toFixed(1)} ms |`);
    return ["| placement | processor time, median |", "| --- | --- |", ...rows].join("\n");
  },
};
