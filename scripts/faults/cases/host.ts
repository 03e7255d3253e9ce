// Faults of the machine under a process: wall clocks that are wrong, disks that are full. F27, F29, F30.
import assert from "node:assert/strict";
import { rm, statfs, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Bed } from "../bed.ts";
import { beats, type FaultCase } from "../case.ts";
import { cannotFakeClock, cannotMount, fakeClock, mountSmallDisk } from "../machine.ts";
import { until } from "../until.ts";
import { pastSince } from "../wait.ts";

const worksOf = async (bed: Bed, job: string) =>
  (await bed.attempts(job)).filter((each) => each.stage === "work").map((each) => each.id);

export const hostCases: readonly FaultCase[] = [
  ...(["+1h", "+1d"] as const).map(
    (offset): FaultCase => ({
      faults: ["F29"],
      injected: `the agent's wall clock is wrong by ${offset}`,
      unable: cannotFakeClock,
      run: async (bed) => {
        await bed.fleet.startControlPlane();
        await bed.startAgent("alpha", { env: await fakeClock(offset) });
        const { job, attempt } = await bed.begin("drill-3");
        const began = performance.now();
        await bed.settled();
        assert.deepEqual(await worksOf(bed, job), [attempt.id]);
        const [row] = await bed.fleet.sql<{ seconds: number }>(
          `select (basis ->> 'quantity')::float8 as seconds from ledger where attempt_id = $1 and service = 'cpu_compute'`,
          [attempt.id],
        );
        assert.ok((row?.seconds ?? 0) < 20, `${row?.seconds} core seconds were charged`);
        return {
          detectMs: null,
          recoverMs: performance.now() - began,
          note: "requeues 0, charged by the database's clock",
        };
      },
    }),
  ),
  {
    faults: ["F29"],
    injected: "the agent's wall clock is wrong by -1h: the server's certificate is not valid yet",
    unable: cannotFakeClock,
    run: async (bed) => {
      await bed.fleet.startControlPlane();
      await bed.startAgent("alpha");
      await bed.fleet.terminate("alpha");
      const env = await fakeClock("-1h");
      const outcome = await bed.startAgent("alpha", { env }).then(
        () => "it works",
        (error: unknown) => String(error),
      );
      assert.ok(
        outcome === "it works" || /clock|not yet valid|CERT_NOT_YET_VALID/i.test(outcome),
        `no clear word: ${outcome.slice(0, 600)}`,
      );
      return {
        detectMs: null,
        recoverMs: null,
        note: outcome === "it works" ? "it works" : "refused with a clear word",
      };
    },
  },
  ...(["+10m", "-10m"] as const).map(
    (offset): FaultCase => ({
      faults: ["F30"],
      injected: `the wall clock of a replica is wrong by ${offset}`,
      fleet: { database: "outside" },
      unable: cannotFakeClock,
      run: async (bed) => {
        await bed.fleet.startControlPlane("control-plane", await fakeClock(offset));
        await bed.startAgent("alpha");
        const { job, attempt } = await bed.begin("drill-6");
        const began = performance.now();
        await bed.settled();
        assert.deepEqual(await worksOf(bed, job), [attempt.id]);
        return { detectMs: null, recoverMs: performance.now() - began, note: "lost 0" };
      },
    }),
  ),
  {
    faults: ["F27"],
    injected: "the scratch disk of a host is full (tmpfs) while it works; another job arrives",
    unable: cannotMount,
    run: async (bed) => {
      const folder = bed.fleet.agentDir("alpha");
      const disk = await mountSmallDisk(folder, 400 * 1024 ** 2);
      try {
        await bed.fleet.startControlPlane();
        await bed.startAgent("alpha");
        const { job, attempt } = await bed.begin("drill-3");
        await fill(folder);
        const began = performance.now();
        const [other = ""] = await bed.submit("drill-0");
        const detectMs = await until(
          "the host refuses",
          async () =>
            (await bed.attempts(other)).some((each) => each.outcome === "refused" || each.outcome === "failed"),
          30_000,
          100,
        );
        await until(
          "the result of the work arrived from the full disk",
          async () => (await bed.attempts(job)).some((each) => each.id === attempt.id && each.outcome === "succeeded"),
          30_000,
          100,
        );
        await bed.startAgent("beta");
        await bed.settled();
        const recoverMs = performance.now() - began;
        assert.ok(bed.fleet.isAlive("alpha"), "the agent died of a full disk");
        await rm(join(folder, "ballast"));
        await until("two heartbeats", pastSince(beats(2)));
        await bed.fleet.terminate("alpha");
        return { detectMs, recoverMs, note: "the result was delivered, new work went to the other host" };
      } finally {
        await bed.kill9("alpha");
        await disk.unmount();
      }
    },
  },
];

/** Leaves no block free. */
const fill = async (folder: string): Promise<void> => {
  const facts = await statfs(folder);
  const free = facts.bavail * facts.bsize;
  await writeFile(join(folder, "ballast"), Buffer.alloc(free, 1)).catch(() => {});
};
